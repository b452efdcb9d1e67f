from cmkd import results as results
from cmkd.api import run_sweep as run_sweep
from cmkd.api import write_report as write_report
from cmkd.predict import load_student as load_student

__version__: str
