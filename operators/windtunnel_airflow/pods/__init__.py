"""Trainings and steps in pods, as workers and triggerers see them: one pod (``flight``, ``trigger``, ``watch``) or a
set of several nodes (``gangflight``, ``gangtrigger``); what an attempt left behind (``attempts``), where it was
begun (``whereabouts``), what it cost (``charging``); ends by hand (``cancelling``) and by nobody (``sweeping``).

What a pod is made of and how it ended is the library's: ``windtunnel.tracking.pods``.
"""
