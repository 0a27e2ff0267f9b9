"""``tally measure``: the group. Each sibling file ``measure_*.py`` adds its own commands."""

from __future__ import annotations

from tallystick.cli import (
    measure_config,
    measure_diff,
    measure_disk,
    measure_nvidia,
    measure_tee,
    measure_uki,
)
from tallystick.cli.output import command_app

app = command_app("Predict a launch measurement from files; say why two differ.")

for sibling in (measure_uki, measure_disk, measure_tee, measure_config, measure_nvidia, measure_diff):
    sibling.register(app)
