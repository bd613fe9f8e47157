"""What the tests of `orrery plan` expect, counted: all that is wrong is said at the end."""
wrong = []
count = 0


def expect(condition, what):
    global count
    count += 1
    if not condition:
        wrong.append(what)


def verdict():
    print("\n".join(wrong) if wrong else f"{count} checks")
    return 1 if wrong else 0
