from .direction_source import DirectionSource as DirectionSource
from .edit_data import EditData as EditData
from .edit_data import GateData as GateData
from .edit_data import ScheduleData as ScheduleData
from .recipe_file import RecipeFile as RecipeFile
from .strengths import Kernel as Kernel
from .strengths import WriterStrengths as WriterStrengths
