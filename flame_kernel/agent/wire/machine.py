"""Which machine this is, so that two processes can tell whether they run on the same one. Both sides import it."""

import os


def machine():
    """This run of this machine, and the namespace in which it counts processes; empty where that is not known."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip() + " " + os.readlink("/proc/self/ns/pid")
    except (OSError, ValueError):
        return ""
