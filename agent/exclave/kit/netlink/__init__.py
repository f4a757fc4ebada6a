"""Netlink: messages of the kernel, their reading and writing, and a subscription to them."""
