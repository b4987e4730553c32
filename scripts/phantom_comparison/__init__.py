"""How much the phantom resembles real cases: statistics, a voxel classifier and pictures. Used by compare_phantom.py."""
