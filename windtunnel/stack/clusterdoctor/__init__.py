"""What may be wrong with a cluster, before a training or a release finds out.

looking    what is looked at, in which order; a check that breaks is itself a finding
api        contexts, reachability, version, clock, rights, what is installed
namespace  the namespace: Pod Security, quotas
machines   nodes with GPUs, storage classes
around     object store, Prometheus, gateway

Nothing is changed in the cluster; in the object store one small object is written and removed.
"""

from windtunnel.stack.clusterdoctor.looking import Cluster, examine

__all__ = ["Cluster", "examine"]
