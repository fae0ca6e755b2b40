from .plan import Plan as Plan
from .plan import PlannedEdit as PlannedEdit
from .steps import fold as fold
from .steps import plan_fold as plan_fold
from .subspaces import Preserved as Preserved
from .subspaces import clear_of as clear_of
from .subspaces import join_subspaces as join_subspaces
