from .exporter import dry_run as dry_run
from .exporter import export as export
from .exporter import export_streamed as export_streamed
