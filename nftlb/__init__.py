"""nftlb: a UDP-first load balancer for Linux."""
