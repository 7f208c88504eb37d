import sys
from pathlib import Path

# The images, the weights and our numbers are those of the default tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "eval"))
