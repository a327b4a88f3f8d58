from .benchmark import run_benchmark as run_benchmark
from .cohort import CohortError as CohortError
from .cohort import open_cohort as open_cohort
from .metrics import measure as measure
from .report import worst_tenth as worst_tenth
