from .direct import Attribution as Attribution
from .direct import direct_attribution as direct_attribution
from .fitted_lenses import fit_jacobian_lens as fit_jacobian_lens
from .fitted_lenses import fit_tuned_lens as fit_tuned_lens
from .lens import Lens as Lens
from .lens_reading import LensReading as LensReading
