"""What train_release_weights.py is made of."""
