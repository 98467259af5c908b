#!/usr/bin/env bash
# A machine of its own on this one: systemd as PID 1 of its own PID, mount, network, cgroup, IPC and
# UTS namespaces, over what is installed here. What it writes to /etc, /usr and /var lands below DIR.
#
#   machine.sh DIR NAME
#
# DIR/init holds the number that its PID 1 has out here; DIR/booted appears when systemctl can be
# used. It runs until this process is told to end.
set -euo pipefail

dir=$1 name=$2

if [[ -z ${INSIDE:-} ]]; then
    # A cgroup of its own, or the manager would move every process of the root one.
    cgroups=/sys/fs/cgroup/unified
    [[ -d $cgroups ]] || cgroups=/sys/fs/cgroup
    cgroup=$cgroups/qs-machine.$$
    mkdir "$cgroup"
    clean() {
        # The processes in it are going, but may not be gone.
        for _ in {1..100}; do
            find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || true
            [[ -d $cgroup ]] || break
            sleep 0.05
        done
    }
    trap clean EXIT
    trap 'kill -KILL "$machine"' TERM INT
    (
        echo "$BASHPID" >"$cgroup/cgroup.procs"
        INSIDE=1 exec unshare -mpfnCiu --kill-child --mount-proc "$0" "$dir" "$name"
    ) &
    machine=$!
    until init=$(pgrep -P "$machine" -x systemd); do
        kill -0 "$machine"
        sleep 0.01
    done
    echo "$init" >"$dir/init"
    wait "$machine" || true
    exit
fi

mount --make-rprivate /
for part in etc usr var; do
    mkdir -p "$dir/$part/upper" "$dir/$part/work"
    mount -t overlay overlay -o "lowerdir=/$part,upperdir=$dir/$part/upper,workdir=$dir/$part/work" "/$part"
done
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t tmpfs -o mode=755 run /run
# Only the units that are put there.
mount -t tmpfs -o mode=755 units /etc/systemd/system
ip link set lo up
echo "$name" >/etc/hostname
mkdir -p /run/systemd/system /run/units
cp /lib/systemd/system/{exit.target,systemd-exit.service} /run/units/
for target in default basic sysinit sockets multi-user network-online shutdown umount final; do
    printf '[Unit]\nDefaultDependencies=no\n' >"/run/units/$target.target"
done
(
    until [[ -S /run/systemd/private ]] && systemctl is-system-running 2>/dev/null | grep -qE 'running|degraded'; do
        sleep 0.02
    done
    touch "$dir/booted"
) &
exec env -i PATH="$PATH" container=test \
    SYSTEMD_UNIT_PATH=/run/units:/etc/systemd/system:/usr/local/lib/systemd/system \
    /lib/systemd/systemd --system --log-target=null --show-status=no
