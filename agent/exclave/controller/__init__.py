"""The cluster's side: admits members, registers them, signs their certificates, reaps the dead, publishes settings."""

from exclave.controller.replica import run_controller
from exclave.controller.run import Place, open_controller

__all__ = ["Place", "open_controller", "run_controller"]
