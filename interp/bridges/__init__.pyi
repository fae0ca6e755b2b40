from .hub import PushedExport as PushedExport
from .hub import push_export as push_export
