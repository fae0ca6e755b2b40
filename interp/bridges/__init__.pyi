from .harness import HarnessModel as HarnessModel
from .hub import PushedExport as PushedExport
from .hub import push_export as push_export
from .inspect_tasks import inspect_task as inspect_task
