from .config import Config as Config
from .errors import InterpError as InterpError
