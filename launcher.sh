#!/bin/sh
# What the installed commands are links to: starts java for the one by whose name it is called, in
# the directory /, with an empty environment, and with no privilege that the command does not need.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
ulimit -c 0 # no core file, also if java dies before it reads its options
command=${0##*/}
fail() { echo "knockknock: $*" >&2; exit 1; }
start() { # java, after the words of the first argument; a user without a passwd entry has HOME
    prefix=$1
    shift
    lib=$(readlink -f "$0")
    lib=${lib%/*}
    exec env -i -C / PATH=$PATH LC_ALL=C.UTF-8 ${HOME+"HOME=$HOME"} $prefix "$lib/jdk/bin/java" \
        "@$lib/$command.options" "$@"
}

needs_nothing() { # whether the carrier of the profile that is named, or of all, is address
    case " $* " in *' --classic '*) return 1 ;; esac
    address='^[[:space:]]*carrier[[:space:]]*[=:][[:space:]]*address[[:space:]]*$'
    profiles=${HOME-}/.knockknock
    [ "$(grep -Els "$address" "$profiles"/*/config)" ] || return 1
    [ "$(grep -ELs "$address" "$profiles"/*/config)" ] || return 0
    for host in "$@"; do
        ! grep -Eqs "$address" "$profiles/$host/config" || return 0
    done
    return 1
}

# This shell's effective user and capabilities (proc_pid_status(5)), without starting id and sed.
while read -r key first second _; do
    case $key in
    Uid:) user=$second ;;
    CapEff:) capabilities=$first ;;
    esac
done < /proc/self/status || exit 1

case $command in
knockknock | knockknock-proxy) # CAP_NET_RAW alone, and the user who asked sudo or doas
    case $capabilities in *[2367abef]???) net_raw=yes ;; *) net_raw= ;; esac # bit 13
    if [ "$user" = 0 ]; then
        only=-all,+net_raw
        if [ -z "$net_raw" ]; then
            only=-all
            needs_nothing "$@" \
                || fail "root has no CAP_NET_RAW here: a container needs --cap-add=NET_RAW"
        fi
        setpriv="setpriv --bounding-set $only --inh-caps $only --ambient-caps $only --no-new-privs"
        uid=${SUDO_UID-} gid=${SUDO_GID-}
        if [ -n "${DOAS_USER-}" ]; then
            [ -z "$uid" ] || fail "both DOAS_USER and SUDO_UID are set: one of them is not true"
            uid=$(id -u -- "$DOAS_USER") && gid=$(id -g -- "$DOAS_USER") || exit 1
        fi
        case $uid$gid in *[!0-9]*) fail "SUDO_UID and SUDO_GID must be numbers" ;; esac
        [ -z "$uid" ] || setpriv="$setpriv --reuid $uid --regid ${gid:?} --init-groups"
        start "$setpriv --" "$@"
    fi
    [ -z "$net_raw" ] || start '' "$@"
    case ${1-} in --counter*) start '' "$@" ;; esac # sends nothing
    ! needs_nothing "$@" || start '' "$@"
    ;;
knockknock-daemon | knockknock-genprofile | knockknock-check) [ "$user" != 0 ] || start '' "$@" ;;
*) fail "$0 is none of knockknock's commands: start them by their own names" ;;
esac
case ${1-} in -h | --help | -V | --version) start '' "$@" ;; esac
command -v sudo > /dev/null || fail "$command needs root, and there is no sudo: start it as root"
exec sudo -u root -- "$0" "$@"
