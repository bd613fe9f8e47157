clock_us = 0.0


def work_us(us):
    global clock_us
    clock_us += us


class Event:
    made = 0

    def __init__(self, enable_timing=False):
        Event.made += 1
        self.at = None

    def record(self):
        self.at = clock_us

    def query(self):
        return True

    def elapsed_time(self, other):
        return (other.at - self.at) / 1e3


class Properties:
    name, total_memory = "Imagined GPU", 80 << 30


def get_device_properties(device):
    return Properties


def current_device():
    return 0


def is_available():
    return True
