"""Agreement between raters: Krippendorff's alpha, 1 where they agree and 0 at chance.

Krippendorff 2011, "Computing Krippendorff's alpha-reliability".
"""

from math import nan
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from interp.core.errors import InterpError

Level = Literal["nominal", "ordinal"]


def krippendorff_alpha(table: Float[ndarray, "rater item"], level: Level) -> float:
    """Krippendorff's alpha.

    Args:
        table: What each rater said of each item, NaN for nothing.
        level: How values compare: alike or not (nominal), or by rank (ordinal).

    Returns:
        Alpha; NaN where no item has two raters, or there is one value only.

    Raises:
        InterpError: krippendorff is not installed.

    Example:
        >>> import numpy as np
        >>> from interp.features.agreement import krippendorff_alpha
        >>> krippendorff_alpha(np.array([[1.0, 0.0, 1.0], [1.0, 0.0, np.nan]]), "nominal")
        1.0
    """
    paired = table[:, (~np.isnan(table)).sum(0) > 1]
    if len(np.unique(paired[~np.isnan(paired)])) < 2:
        return nan
    try:
        from krippendorff import alpha
    except ImportError:
        raise InterpError("agreement needs krippendorff; install it with: pip install 'interp[feedback]'") from None
    return float(alpha(paired, level_of_measurement=level))
