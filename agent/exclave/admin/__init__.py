"""What an admin makes: groups, join tokens, the controller's rights."""

from exclave.admin.objects import Placed, controller_objects, group_objects, join_account

__all__ = ["Placed", "controller_objects", "group_objects", "join_account"]
