"""The one door to a Kubernetes API: how it is found, what is sent, what its refusals mean, what is tried again.

kinds      what an object's kind is called in the API
access     where the API is and with whose credentials: a kubeconfig, or the pod this process runs in
answers    from the API's answers to ``windtunnel.errors``, and how long to wait before another try; pure
client     get, list, create, apply, patch, delete, and requests through the API to a service
rights     which rights each part needs: one table for the pages, the chart and the doctor
watching   a list that keeps itself up to date

Manifests go in as plain dicts and come out as plain dicts; what they say is decided elsewhere. The ``kubernetes``
package is imported when a client is made, never before.
"""
