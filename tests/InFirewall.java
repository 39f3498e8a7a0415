import static org.junit.jupiter.api.Assertions.assertEquals;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;

import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;

/**
 * A server whose rules are made as its admin makes them, with a service that counts who gets in.
 */
abstract class InFirewall extends InLab {
    static final List<String> ADDRESSES = List.of(Lab.SERVER, Lab.SERVER6);
    /** For nft, in one line, as nft -i reads lines: lets in what a host needs, and nothing else. */
    static final String TABLE = "table inet host { chain input { type filter hook input "
            + "priority filter;"
            + " policy drop; ct state established,related accept; iif lo accept; meta l4proto "
                    + "ipv6-icmp accept; }; }\n";
    /**
     * Publishes port 22 of a third host, as Docker does: what is for it goes through FORWARD, not
     * INPUT.
     */
    static final String CONTAINER = """
            ip netns add inner
            ip link add inner0 netns server type veth peer name inner0 netns inner
            for host in server:1 inner:2; do
                ip -n ${host%:*} address add 198.51.100.${host#*:}/24 dev inner0
                ip -n ${host%:*} address add 2001:db8:1::${host#*:}/64 dev inner0 nodad
                ip -n ${host%:*} link set inner0 up
            done
            ip -n inner route add default via 198.51.100.1
            ip -n inner route add default via 2001:db8:1::1
            ip netns exec server sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
            publish() {
                ip netns exec server $1 -P FORWARD DROP
                ip netns exec server $1 -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j \
            ACCEPT
                ip netns exec server $1 -A FORWARD -i inner0 -j ACCEPT
                ip netns exec server $1 -t nat -A PREROUTING -m addrtype --dst-type LOCAL -p tcp \
            --dport 22 \
                    -j DNAT --to-destination $2
            }
            publish iptables 198.51.100.2:22
            publish ip6tables [2001:db8:1::2]:22
            """;
    /** Accepts connections on port 22 over both IP versions, and prints a line for each. */
    static final String SERVICE = """
            import socket
            service = socket.create_server(('::', 22), family=socket.AF_INET6, backlog=100, \
            dualstack_ipv6=True)
            while True:
                connection, address = service.accept()
                print(address[0], flush=True)
                connection.close()
            """;
    Path accepted;

    @BeforeEach
    void startLab() throws Exception {
        accepted = lab.work.resolve("accepted");
        lab.profile("laptop", 7000, "laptop");
        useProfile("laptop");
    }

    @AfterEach
    void endWhatTheLabDoesNotKnow() throws Exception {
        if (Files.readString(Path.of("/etc/ufw/ufw.conf")).contains("ENABLED=yes")) {
            sh("server", "ufw disable");
        }
        lab.run(List.of("ip", "netns", "del", "inner"));
    }

    /** The client knocks with this profile from now on, over both IP versions. */
    void useProfile(String name) throws IOException {
        for (var address : ADDRESSES) {
            Files.deleteIfExists(lab.clientProfile(address));
            Files.createSymbolicLink(lab.clientProfile(address), lab.clientProfile(name));
        }
    }

    String sh(String host, String text) throws Exception {
        return lab.mustOn(host, "env", "W=" + lab.work, "sh", "-euc",
                "export DBUS_SYSTEM_BUS_ADDRESS=unix:path=$W/bus\n" + text);
    }

    /** Puts this firewall in the place of the Lab's, which is minimal-firewall.sh's. */
    void load(String host) throws Exception {
        switch (host) {
            case "nft inet" -> nft(TABLE);
            case "nft ip, ip6" -> nft(TABLE.replace("inet", "ip") + TABLE.replace("inet", "ip6"));
            case "nft owner" -> {
                sh("server", "nft flush ruleset");
                var owner = lab.start(lab.work.resolve("owner"), Lab.on("server", "nft", "-i"))
                        .outputWriter();
                owner.write(TABLE.replace("{ chain", "{ flags owner; chain"));
                owner.flush();
                Lab.await("the owner's table",
                        () -> sh("server", "nft list ruleset").contains("policy drop"));
            }
            case "iptables-legacy" -> sh("server",
                    "nft flush ruleset; mkdir $W/legacy; for t in iptables ip6tables;"
                    + " do ln -s /usr/sbin/$t-legacy $W/legacy/$t; done; PATH=$W/legacy:$PATH "
                            + "./minimal-firewall.sh");
            case "ufw" -> sh("server", "nft flush ruleset; ufw --force enable");
            case "firewalld nftables", "firewalld iptables" ->
                    startFirewalld(host.substring(host.indexOf(' ') + 1));
            case "container" -> lab.must("sh", "-euc", CONTAINER);
            default -> { } // the Lab's
        }
    }

    void nft(String rules) throws Exception {
        Files.writeString(lab.work.resolve("rules"), "flush ruleset\n" + rules);
        sh("server", "nft -f $W/rules");
    }

    /** With a bus of its own, and without the ssh that is open in its default zone. */
    void startFirewalld(String backend) throws Exception {
        sh("server", """
                nft flush ruleset
                cp -a /etc/firewalld $W
                echo '<zone/>' > $W/firewalld/zones/public.xml
                sed -i '/^FirewallBackend=/d; $aFirewallBackend=%s' $W/firewalld/firewalld.conf
                """.formatted(backend));
        var bus = "unix:path=" + lab.work + "/bus";
        var output = lab.work.resolve("output");
        lab.start(output, Lab.on("server", "dbus-daemon", "--session", "--nofork", "--nopidfile",
                "--address=" + bus));
        Lab.await("the bus", () -> Files.exists(lab.work.resolve("bus")));
        lab.start(output, Lab.on("server", "env", "DBUS_SYSTEM_BUS_ADDRESS=" + bus, "firewalld",
                "--nofork", "--nopid",
                "--log-target=console", "--system-config=" + lab.work + "/firewalld"));
        Lab.await("firewalld", () -> sh("server", "firewall-cmd --state || true")
                .equals("running\n"));
    }

    void serve(String host) throws Exception {
        lab.start(accepted, Lab.on(host, "python3", "-c", SERVICE));
        Lab.await("the service", () -> lab.mustOn(host, "ss", "-Hltn", "sport = :22").lines()
                .count() == 1);
    }

    /** All rules of the server, counters aside. */
    String rules() throws Exception {
        return sh("server", """
                nft -s list ruleset
                for tables in iptables ip6tables iptables-legacy ip6tables-legacy; do \
                $tables-save; done
                """).replaceAll("(?m)^#.*\n", "").replaceAll("\\[\\d+:\\d+\\]", "");
    }

    String rules(String what) throws Exception {
        return sh("server", "nft list " + what);
    }

    /** The same without the daemon's own. */
    String hostsRules() throws Exception {
        return rules().replaceAll("(?ms)^table inet knockknock \\{.*?^\\}\n", "");
    }

    /** Knocks over IPv4, then over IPv6, and both open. */
    void knock() throws Exception {
        for (var address : ADDRESSES) {
            var opened = "opened port 22 for "
                    + (address.equals(Lab.SERVER) ? "192.0.2.2," : "2001:db8:0:0:0:0:0:2,");
            long before = lab.said(opened);
            lab.must(lab.knockCommand("-p", "22", address));
            Lab.await(() -> opened + " in " + lab.said(), () -> lab.said(opened) == before + 1);
        }
    }

    /**
     * Tries one connection over each IP version at the same time; returns the addresses that let it
     * in.
     */
    List<String> connect(double seconds) throws Exception {
        return sh("client", "for to in " + String.join(" ", ADDRESSES) + "; do (timeout " + seconds
                + " nc -z $to 22 && echo $to) & done | sort").lines().toList();
    }

    void assertOpen(String when) throws Exception {
        assertEquals(ADDRESSES, connect(5), when);
    }

    void assertClosed(String when) throws Exception {
        assertEquals(List.of(), connect(0.5), when);
    }

    void assertAccepted(int connections) throws Exception {
        Lab.await(() -> connections + " connections, not " + Files.readString(accepted),
                () -> Files.readAllLines(accepted).size() == connections);
    }
}
