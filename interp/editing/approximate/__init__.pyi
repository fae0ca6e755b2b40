from .affine_features import AffineFit as AffineFit
from .affine_features import affine_fit as affine_fit
from .affine_features import as_projection as as_projection
from .distillation import distil as distil
from .fidelity import Fidelity as Fidelity
from .fidelity import measure_fidelity as measure_fidelity
from .low_rank_factors import Distilled as Distilled
