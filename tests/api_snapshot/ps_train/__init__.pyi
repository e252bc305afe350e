# Made by tests/public_api.py: the public names of ps_train. A change here is one that users see.

from typing import Any

def load_predictor(path, *, backbone=None, encoder=None, allow_code=False): ...
