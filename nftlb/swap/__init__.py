"""How a configuration gets into the kernel: plans, and the transactions that carry the plans out.

One write path leads from a decision to the kernel. Each layer has its own verbs:

    nftlb.daemon.reconciler.Reconciler        decides when to write                 run, wake, wait_until_applied
    nftlb.daemon.kernel_thread.KernelThread   carries the call to its thread        write, read
    Applier                                   orders tables, connections, routing   load, update, tidy, remove
    Swapper                                   brings our tables to a target         swap, remove_leftovers, stage
    plan                                      computes the steps, without I/O       make, plan_removal, waypoints
    nftlb.kernel.Kernel                       sends a transaction to nf_tables      apply, list

Each fact about the kernel has one owner:

    fact                                  owner             forgotten
    content of our tables                 Swapper           before each transaction, until the kernel has accepted it;
                                                            and when others changed the kernel's generation number,
                                                            unless the monitor says that our tables are as before
    tables of our name made by others     Swapper           at the next listing
    time since which packets don't need   Swapper           when the leftover is deleted, or our tables are listed again
    a leftover
    lists that are added for a later      Swapper           when they are loaded, or the load has failed
    load, and that no rule uses yet
    objects that the kernel lists in      Spellings         when our objects are compared with a listing again
    another form than they were written
    configuration and membership that     Applier.accepted  by `remove()`; replaced when a load or update is complete
    the kernel accepted last
    time until which in-flight replies    Applier           when the time is over (`tidy()`)
    need rules, sets and zones of former
    backends
    wanted configuration and membership   WantedState       never; it is what the file, API and checks say
    (nftlb.daemon.wanted_state)
    suspicion that others changed our     Reconciler        when our tables were compared or loaded again
    tables, or the host's links or routes
"""

from .applier import Applied, Applier, Shortfall
from .swapper import Swap, Swapper

__all__ = ["Applied", "Applier", "Shortfall", "Swap", "Swapper"]
