from .direct import Attribution as Attribution
from .direct import direct_attribution as direct_attribution
