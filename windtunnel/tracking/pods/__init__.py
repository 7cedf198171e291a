"""Training in a pod: its manifest, how it ends, what it exchanges with the worker, what runs in it.

``naming``, ``manifest``, ``capacity`` and ``ends`` are pure: plain values in, plain values out.
"""
