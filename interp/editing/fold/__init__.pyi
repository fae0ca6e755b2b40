from .plan import Plan as Plan
from .steps import fold as fold
from .steps import plan_fold as plan_fold
