"""The demo: a fleet of worker processes against a strict server, with nekkar and without.

Bottom to top: ``window`` says what a strict service accepts, ``server`` is one; ``children`` starts processes
and ends them, ``worker`` is what each runs, ``fleet`` runs them together; ``show`` tells people, ``stage``
puts it all on. Nothing here is imported before ``nekkar demo`` runs.
"""
