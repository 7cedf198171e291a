"""What may be wrong with a cluster, before a training or a release finds out.

looking    what is looked at, in which order; a check that breaks is itself a finding
api        contexts, reachability, version, clock, rights, what is installed
namespace  the namespace: Pod Security
quotas     its ResourceQuotas: what is left, and whether the pods that we would make could be in it
limits     its LimitRanges, held against the same pods
needs      what models need, by their descriptions: extensions, runtimes, pods, what their releases would be refused for
queues     queues of Kueue that models name
secrets    what pods are given: the registry's user, keys, authorities; of trainings, what descriptions name
machines   nodes with GPUs, storage classes
placing    whether nodes could hold the pods of models
around     object store, Prometheus, gateway
queries    what Prometheus makes of the queries of gates
collecting the collector of predictions

Nothing is changed in the cluster; in the object store one small object is written and removed.
"""

from windtunnel.stack.clusterdoctor.looking import Cluster, examine

__all__ = ["Cluster", "examine"]
