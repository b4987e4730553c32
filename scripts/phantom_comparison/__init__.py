"""How much the phantom resembles real cases: statistics, a voxel classifier, pictures."""
