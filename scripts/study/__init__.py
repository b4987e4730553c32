"""What run_study.py and report_study.py are made of."""
