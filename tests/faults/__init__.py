"""What may break, broken on purpose: each suite has a short form, a long one (LOADSHEET_LONG=1),
and a control.

A control is the naive way put through the same test: it must fail, or the test proves nothing.
"""
