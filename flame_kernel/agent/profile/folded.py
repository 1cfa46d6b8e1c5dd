"""Stacks with the seconds spent in each. Equal stacks are merged, and the size of what is sent is bounded."""

import linecache

# How many different stacks are kept; the seconds of all others are added up in ``left_out``.
MOST_STACKS = 5000
# How many calls are kept at the beginning and at the end of one stack.
FIRST, LAST = 30, 170
# How many of the hottest lines are sent with their source; and the longest line or name, in characters.
MOST_SOURCES, LONG = 60, 300
CUT = ("[calls left out]", "", 0)


class Folded:
    """Collects stacks. A call is ``(function, file, line)``; a stack has the outermost call first."""

    def __init__(self):
        self._stacks = {}  # (thread, calls) -> seconds
        self.left_out = 0.0  # seconds in stacks that were not kept
        self.texts = {}  # (file, line) -> source, for lines that linecache does not know under that file name

    def add(self, thread, calls, seconds):
        """Add ``seconds`` to a stack of a thread."""
        if len(calls) > FIRST + LAST:
            calls = calls[:FIRST] + (CUT,) + calls[-LAST:]
        key = (thread, calls)
        if key in self._stacks or len(self._stacks) < MOST_STACKS:
            self._stacks[key] = self._stacks.get(key, 0.0) + seconds
        else:
            self.left_out += seconds

    def stacks_of(self, thread):
        """The stacks of one thread: ``{calls: seconds}``."""
        return {calls: seconds for (name, calls), seconds in self._stacks.items() if name == thread}

    def drop(self, thread):
        """Remove all stacks of a thread."""
        self._stacks = {key: seconds for key, seconds in self._stacks.items() if key[0] != thread}

    def content(self):
        """What is sent: each name once; everywhere else its number stands for it.

        ``threads`` (names), ``functions`` ([name, file]), ``frames`` ([function, line]), ``stacks`` ([thread, seconds,
        [frame, …]]), ``sources`` ([frame, text] of the hottest lines) and ``left_out`` (seconds).
        """
        threads, functions, frames, stacks, hot = {}, {}, {}, [], {}
        for (thread, calls), seconds in self._stacks.items():
            numbers = []
            for name, file, line in calls:
                function = functions.setdefault((name[:LONG], file[-LONG:]), len(functions))
                numbers.append(frames.setdefault((function, line), len(frames)))
            for number in set(numbers):
                hot[number] = hot.get(number, 0.0) + seconds
            if numbers:  # the hottest lines are the innermost ones, so those count most
                hot[numbers[-1]] += 1000 * seconds
            stacks.append([threads.setdefault(thread[:LONG], len(threads)), round(seconds, 6), numbers])
        content = {"threads": list(threads), "functions": [list(one) for one in functions], "stacks": stacks}
        content.update(frames=[list(one) for one in frames], left_out=round(self.left_out, 6), sources=[])
        known = list(frames)
        for number in sorted(hot, key=hot.get, reverse=True)[:MOST_SOURCES]:
            function, line = known[number]
            file = content["functions"][function][1]
            text = (self.texts.get((file, line)) or linecache.getline(file, line)).strip()
            if text:
                content["sources"].append([number, text[:LONG]])
        return content
