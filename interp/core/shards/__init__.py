"""Work in shards: items in processes of this machine or on a Ray cluster, with their results in order.

In reading order: `workers` (`map_in_order`), `ray_actors` (the same on a cluster).
"""
