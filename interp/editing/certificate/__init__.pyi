from .manifest import ExportManifest as ExportManifest
from .manifest import Release as Release
from .record import Certificate as Certificate
from .verifier import verify as verify
from .writer_check import check_writers as check_writers
