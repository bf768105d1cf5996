# Each recipe is one call of the lab. `just` without a name lists them.

_list:
    @just --list

# Two hosts, one VM, a move under a running client; then a live serial console
demo *arguments:
    cargo lab demo {{arguments}}

# Check everything (--quick: what needs no hosts)
test *arguments:
    cargo lab test {{arguments}}

# Measure side by side with QEMU: just bench migrate, just bench nested (both write appliance/docs/benchmarks.md)
bench subject *arguments:
    cargo lab bench {{subject}} {{arguments}}

# Moves between two hosts of this machine, disturbed by a seed's choice (--moves N --seed N)
moves *arguments:
    cargo lab moves {{arguments}}

# A VM with PostgreSQL under load moves between two hosts (--moves N --cpus N --server MAKE)
database *arguments:
    cargo lab database {{arguments}}

# Moves broken in each of their phases, between two nested hosts (--only FAULT --server MAKE)
losses *arguments:
    cargo lab losses {{arguments}}

# Changed inputs for all that reads words of others (--seconds N --seed N, a target)
fuzz *arguments:
    cargo lab fuzz {{arguments}}

# Moves between an older build and this one: just older [COMMIT]
older *arguments:
    cargo lab older {{arguments}}

# The lease in simulated worlds (--seeds N)
sim *arguments:
    cargo lab sim {{arguments}}

# The bootable ISO
image:
    cargo lab image

# Boot hosts with a shared datastore and leave them running (--hosts N)
up *arguments:
    cargo lab up {{arguments}}

# What is up
status:
    cargo lab status

# End what is up
down:
    cargo lab down

# One console command on a host: just exec host-a vm list
exec host *command:
    cargo lab exec {{host}} -- {{command}}

# Sit down at a host's serial console
console host:
    cargo lab console {{host}}

# Break something: just fault host-a kill; just fault host-a cut migration
fault host *what:
    cargo lab fault {{host}} {{what}}
