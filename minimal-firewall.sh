#!/bin/sh
# Default-deny rules for a host that has none, for IPv4 and IPv6: lets in what belongs to
# connections from here, loopback, ping, and what IPv6 needs to work; drops the rest. Changes the
# running rules only, and refuses if INPUT has any already. Over ssh, start knockknock-daemon first:
# the session that you are in stays, but the next one must knock.
set -eu
status=0
for iptables in iptables ip6tables; do
    if ! command -v $iptables > /dev/null; then
        echo "knockknock: $iptables is not installed: its IP version stays as it is" >&2
        status=1
    elif $iptables -w -S INPUT | grep -v -e '^-P INPUT' -e '-j KNOCKKNOCK$' | grep -q .; then
        echo "knockknock: $iptables has rules in INPUT already: they stay as they are" >&2
    else
        $iptables -w -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
        $iptables -w -A INPUT -i lo -j ACCEPT
        if [ $iptables = iptables ]; then
            $iptables -w -A INPUT -p icmp --icmp-type echo-request -j ACCEPT
        else
            # RFC 4890: echo, multicast listener queries, router and neighbour discovery
            for type in echo-request 130 router-advertisement neighbour-solicitation \
                neighbour-advertisement; do
                $iptables -w -A INPUT -p icmpv6 --icmpv6-type $type -j ACCEPT
            done
            # RFC 8415: DHCPv6's answers, which conntrack does not know, as it is asked by multicast
            $iptables -w -A INPUT -p udp -s fe80::/10 --dport 546 -j ACCEPT
        fi
        $iptables -w -P INPUT DROP
    fi
done
exit $status
