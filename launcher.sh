#!/bin/sh
# What the installed commands are links to: starts java for the one by whose name it is called, in
# the directory /, with an empty environment, and with no privilege that the command does not need.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
ulimit -c 0 # no core file, also if java dies before it reads its options
command=${0##*/}
start() { # java, after the words of the first argument
    prefix=$1
    shift
    lib=$(readlink -f "$0")
    lib=${lib%/*}
    exec env -i -C / PATH=$PATH $prefix "$lib/jdk/bin/java" "@$lib/$command.options" \
        "-Duser.dir=$PWD" -jar "$lib/$command.jar" "$@"
}

# This shell's effective user and capabilities (proc_pid_status(5)), without starting id and sed.
while read -r key first second _; do
    case $key in
    Uid:) user=$second ;;
    CapEff:) capabilities=$first ;;
    esac
done < /proc/self/status || exit 1

case $command in
knockknock | knockknock-proxy) # CAP_NET_RAW alone, and the user who asked sudo
    only=-all,+net_raw
    setpriv="setpriv --bounding-set $only --inh-caps $only --ambient-caps $only --no-new-privs"
    [ -z "${SUDO_UID-}" ] || setpriv="$setpriv --reuid $SUDO_UID --regid $SUDO_GID --init-groups"
    [ "$user" != 0 ] || start "$setpriv --" "$@"
    case $capabilities in *[2367abef]???) start '' "$@" ;; esac # bit 13 is CAP_NET_RAW
    ;;
*) [ "$user" != 0 ] || start '' "$@" ;;
esac
case ${1-} in -h | --help | -V | --version) start '' "$@" ;; esac
exec sudo -- "$0" "$@"
