import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;

import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Whatever firewall a host has, over IPv4 and IPv6: each knock lets one connection in, and no rule of it changes. */
class FirewallTest extends InLab {
    private static final List<String> ADDRESSES = List.of(Lab.SERVER, Lab.SERVER6);
    /** For nft, in one line, as nft -i reads lines: lets in what a host needs, and nothing else. */
    private static final String TABLE = "table inet host { chain input { type filter hook input priority filter;"
            + " policy drop; ct state established,related accept; iif lo accept; meta l4proto ipv6-icmp accept; }; }\n";
    /** Publishes port 22 of a third host, as Docker does: what is for it goes through FORWARD, not INPUT. */
    private static final String CONTAINER = """
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
                ip netns exec server $1 -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
                ip netns exec server $1 -A FORWARD -i inner0 -j ACCEPT
                ip netns exec server $1 -t nat -A PREROUTING -m addrtype --dst-type LOCAL -p tcp --dport 22 \
                    -j DNAT --to-destination $2
            }
            publish iptables 198.51.100.2:22
            publish ip6tables [2001:db8:1::2]:22
            """;
    /** Accepts connections on port 22 over both IP versions, and prints a line for each. */
    private static final String SERVICE = """
            import socket
            service = socket.create_server(('::', 22), family=socket.AF_INET6, backlog=100, dualstack_ipv6=True)
            while True:
                connection, address = service.accept()
                print(address[0], flush=True)
                connection.close()
            """;
    private Path accepted;

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
    private void useProfile(String name) throws IOException {
        for (var address : ADDRESSES) {
            Files.deleteIfExists(lab.clientProfile(address));
            Files.createSymbolicLink(lab.clientProfile(address), lab.clientProfile(name));
        }
    }

    private String sh(String host, String text) throws Exception {
        return lab.mustOn(host, "env", "W=" + lab.work, "sh", "-euc",
                "export DBUS_SYSTEM_BUS_ADDRESS=unix:path=$W/bus\n" + text);
    }

    /** Puts this firewall in the place of the Lab's, which is minimal-firewall.sh's. */
    private void load(String host) throws Exception {
        switch (host) {
            case "nft inet" -> nft(TABLE);
            case "nft ip, ip6" -> nft(TABLE.replace("inet", "ip") + TABLE.replace("inet", "ip6"));
            case "nft owner" -> {
                sh("server", "nft flush ruleset");
                var owner = lab.start(lab.work.resolve("owner"), Lab.on("server", "nft", "-i")).outputWriter();
                owner.write(TABLE.replace("{ chain", "{ flags owner; chain"));
                owner.flush();
                Lab.await("the owner's table", () -> sh("server", "nft list ruleset").contains("policy drop"));
            }
            case "iptables-legacy" -> sh("server", "nft flush ruleset; mkdir $W/legacy; for t in iptables ip6tables;"
                    + " do ln -s /usr/sbin/$t-legacy $W/legacy/$t; done; PATH=$W/legacy:$PATH ./minimal-firewall.sh");
            case "ufw" -> sh("server", "nft flush ruleset; ufw --force enable");
            case "firewalld nftables", "firewalld iptables" -> startFirewalld(host.substring(host.indexOf(' ') + 1));
            case "container" -> lab.must("sh", "-euc", CONTAINER);
            default -> { } // the Lab's
        }
    }

    private void nft(String rules) throws Exception {
        Files.writeString(lab.work.resolve("rules"), "flush ruleset\n" + rules);
        sh("server", "nft -f $W/rules");
    }

    /** With a bus of its own, and without the ssh that is open in its default zone. */
    private void startFirewalld(String backend) throws Exception {
        sh("server", """
                nft flush ruleset
                cp -a /etc/firewalld $W
                echo '<zone/>' > $W/firewalld/zones/public.xml
                sed -i '/^FirewallBackend=/d; $aFirewallBackend=%s' $W/firewalld/firewalld.conf
                """.formatted(backend));
        var bus = "unix:path=" + lab.work + "/bus";
        var output = lab.work.resolve("output");
        lab.start(output, Lab.on("server", "dbus-daemon", "--session", "--nofork", "--nopidfile", "--address=" + bus));
        Lab.await("the bus", () -> Files.exists(lab.work.resolve("bus")));
        lab.start(output, Lab.on("server", "env", "DBUS_SYSTEM_BUS_ADDRESS=" + bus, "firewalld", "--nofork", "--nopid",
                "--log-target=console", "--system-config=" + lab.work + "/firewalld"));
        Lab.await("firewalld", () -> sh("server", "firewall-cmd --state || true").equals("running\n"));
    }

    private void serve(String host) throws Exception {
        lab.start(accepted, Lab.on(host, "python3", "-c", SERVICE));
        Lab.await("the service", () -> lab.mustOn(host, "ss", "-Hltn", "sport = :22").lines().count() == 1);
    }

    /** All rules of the server, counters aside. */
    private String rules() throws Exception {
        return sh("server", """
                nft -s list ruleset
                for tables in iptables ip6tables iptables-legacy ip6tables-legacy; do $tables-save; done
                """).replaceAll("(?m)^#.*\n", "").replaceAll("\\[\\d+:\\d+\\]", "");
    }

    /** The same without the daemon's own. */
    private String hostsRules() throws Exception {
        return rules().replaceAll("(?ms)^table inet knockknock \\{.*?^\\}\n", "");
    }

    /** Knocks over IPv4, then over IPv6, and both open. */
    private void knock() throws Exception {
        for (var address : ADDRESSES) {
            var opened = "opened port 22 for " + (address.equals(Lab.SERVER) ? "192.0.2.2," : "2001:db8:0:0:0:0:0:2,");
            long before = lab.said(opened);
            lab.must(lab.knockCommand("-p", "22", address));
            Lab.await(() -> opened + " in " + lab.said(), () -> lab.said(opened) == before + 1);
        }
    }

    /** Tries one connection over each IP version at the same time; returns the addresses that let it in. */
    private List<String> connect(double seconds) throws Exception {
        return sh("client", "for to in " + String.join(" ", ADDRESSES) + "; do (timeout " + seconds
                + " nc -z $to 22 && echo $to) & done | sort").lines().toList();
    }

    private void assertOpen(String when) throws Exception {
        assertEquals(ADDRESSES, connect(5), when);
    }

    private void assertClosed(String when) throws Exception {
        assertEquals(List.of(), connect(0.5), when);
    }

    private void assertAccepted(int connections) throws Exception {
        Lab.await(() -> connections + " connections, not " + Files.readString(accepted),
                () -> Files.readAllLines(accepted).size() == connections);
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', value = {
        "nft inet | nft -f $W/rules, nft list ruleset > $W/dump; nft flush ruleset; nft -f $W/dump",
        "nft ip, ip6 | nft flush ruleset; nft -f $W/rules",
        "nft owner | ! nft delete table inet host",
        "iptables-nft | iptables -F; ip6tables -F; ./minimal-firewall.sh",
        "iptables-legacy | iptables-legacy -F; ip6tables-legacy -F; PATH=$W/legacy:$PATH ./minimal-firewall.sh",
        "ufw | ufw reload",
        "firewalld nftables | firewall-cmd --reload, firewall-cmd --complete-reload",
        "firewalld iptables | firewall-cmd --reload, firewall-cmd --complete-reload",
        "container |"})
    void aKnockLetsOneConnectionInAndLeavesTheHostsRulesAsTheyAre(String host, String reloads) throws Exception {
        load(host);
        serve(host.equals("container") ? "inner" : "server");
        var before = rules();
        lab.startDaemon();
        assertClosed("before");
        knock();
        assertEquals(before, hostsRules(), "while openings wait");
        assertOpen("for one");
        assertClosed("behind it");

        knock();
        Thread.sleep(3400); // what is tested is the time itself; the kernel's timer may be a quarter of a second late
        assertClosed("after the delay");
        assertEquals(before, hostsRules());

        int connections = 2;
        for (var reload : reloads == null ? new String[0] : reloads.split(", ")) {
            sh("server", reload);
            Lab.await("the log rule", () -> rules().contains("log prefix \"knockknock: \""));
            knock();
            assertOpen("after " + reload);
            assertClosed("behind it after " + reload);
            connections += 2;
        }
        assertAccepted(connections);
        before = hostsRules(); // firewalld's iptables come in another order after a reload
        lab.stopDaemon();
        assertEquals(before, rules(), "when the daemon has ended");
    }

    @ParameterizedTest
    @ValueSource(strings = {
        "iptables -t raw -A PREROUTING -p tcp --dport 7000 -j DROP; ip6tables -t raw -A PREROUTING -p tcp --dport 7000 -j DROP",
        "iptables -t mangle -A PREROUTING -p tcp --dport 7000 -j DROP; ip6tables -t mangle -A PREROUTING -p tcp --dport 7000 -j DROP",
        "nft 'table inet sshguard { chain b { type filter hook input priority -10; tcp dport != 22 drop; }; }'",
        "for t in iptables:192.0.2.9 ip6tables:[2001:db8::9]; do ${t%%:*} -t nat -A PREROUTING -p tcp ! --dport 22 -j DNAT"
                + " --to-destination ${t#*:}; done"})
    void noRuleThatComesBeforeTheHostsOwnHidesAKnock(String rules) throws Exception {
        sh("server", rules);
        serve("server");
        lab.startDaemon();
        knock();
        assertOpen("for one");
        assertClosed("behind it");
    }

    @Test
    void besideASetOfTwoHundredThousandNetworksNothingGrowsAndTheNextKnockOpens() throws Exception {
        nft(TABLE);
        sh("server", """
                {
                    echo 'table inet big { set s { type ipv4_addr; flags interval; elements = {'
                    for i in $(seq 200); do seq -f "11.$i.%g.0/24," 0 2 255; seq -f "12.$i.%g.0/24," 1 2 255; done
                    for i in $(seq 200); do for j in $(seq 3); do seq -f "$((i + 20)).$j.%g.0/25," 255; done; done
                    echo '}; }; chain c { type filter hook input priority filter; ip saddr @s drop; }; }'
                } > $W/big; nft -f $W/big
                """);
        serve("server");
        lab.startDaemon();
        var half = lab.daemon().children().findFirst().orElseThrow();
        knock(); // and now all that it needs is loaded
        assertOpen("for one");
        long before = peakKilobytes(half);
        for (int i = 0; i < 2; i++) {
            sh("server", "nft delete table inet knockknock");
            Lab.await("the log rule", () -> rules("tables").contains("inet knockknock"));
            knock();
            assertOpen("for one");
        }
        assertTrue(peakKilobytes(half) < before + 10_000, before + " -> " + peakKilobytes(half) + " KB");
        assertEquals(List.of(), half.descendants().toList());
    }

    private String rules(String what) throws Exception {
        return sh("server", "nft list " + what);
    }

    private static long peakKilobytes(ProcessHandle process) throws IOException {
        return Traces.kilobytes(process.pid(), "status", "VmHWM");
    }

    /** From the client's wire, but with the server's address and port 0: what an opening's helper might take for FTP. */
    private static final String FTP = """
            import socket, struct, sys, time
            server, client, mac = (socket.inet_pton(socket.AF_INET6, sys.argv[1]), socket.inet_pton(socket.AF_INET6, sys.argv[2]),
                bytes.fromhex(sys.argv[3].replace(':', '')))
            out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            out.bind(('kk0', 0x86dd))
            def send(port, seq, flags, data):
                tcp = struct.pack('>HHIIBBHHH', 0, port, seq, 1, 0x50, flags, 64240, 0, 0) + data
                words = server + client + struct.pack('>II', len(tcp), 6) + tcp + bytes(len(tcp) % 2)
                total = sum(struct.unpack('>%dH' % (len(words) // 2), words))
                total = (total & 0xffff) + (total >> 16)
                tcp = tcp[:16] + struct.pack('>H', ~(total + (total >> 16)) & 0xffff) + tcp[18:]
                out.send(mac + bytes(6) + b'\\x86\\xdd' + struct.pack('>IHBB', 6 << 28, len(tcp), 6, 64) + server + client + tcp)
            for port in 22, 3306:
                send(port, 1000, 0x12, b'')
                time.sleep(0.05)
                send(port, 1001, 0x18, b'229 Entering Extended Passive Mode (|||3306|)\\r\\n')
            """;

    @Test
    void nobodyOnTheLinkMakesOfAnOpeningOneOfAnotherPort() throws Exception {
        lab.addSetting(lab.dir.resolve("profiles/laptop"), "open_ports = 22");
        lab.mustOn("server", "sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1");
        nft(TABLE);
        lab.serve(3306);
        lab.startDaemon();
        lab.must(lab.knockCommand("-p", "22", Lab.SERVER6));
        Lab.await("the knock", () -> lab.said("opened port 22") == 1);
        lab.mustOn("client", "nft", "table inet own { chain pre { type filter hook prerouting priority raw; tcp sport 0 drop; }; }");
        var mac = lab.mustOn("server", "cat", "/sys/class/net/kk0/address").strip();
        lab.mustOn("client", "python3", "-c", FTP, Lab.SERVER6, Lab.CLIENT6, mac);
        assertFalse(lab.connects(Lab.SERVER6, 3306), lab.mustOn("server", "cat", "/proc/net/nf_conntrack_expect"));
    }

    @ParameterizedTest
    @ValueSource(strings = {"drop", "tcp dport 22 reject with tcp reset"})
    void ofFiftyWhoKnockAtOnceFiftyGetInAndWhereTheHostRejectsSomeTryAgain(String policy) throws Exception {
        nft(TABLE.replace("}; }", policy + "; }; }"));
        serve("server");
        lab.config("delay = 15");
        lab.startDaemon();
        assertClosed("before");
        var clients = new ArrayList<Process>();
        for (int i = 0; i < 50; i++) {
            var address = ADDRESSES.get(i % 2);
            // nice, as a real server has processors of its own beside the 50 JVMs
            var command = new ArrayList<>(List.of("nice", "-n", "19", "sh", "-c",
                    "\"$@\" && for i in 1 2 3 4 5; do ip netns exec client nc -z -w 15 " + address + " 22 && exit;"
                            + " echo try again; sleep 0.2; done; exit 1", "sh"));
            command.addAll(List.of(lab.knockCommand("-p", "22", address)));
            clients.add(lab.start(lab.work.resolve("clients"), command));
        }
        int in = 0;
        for (var client : clients) {
            in += client.waitFor(60, TimeUnit.SECONDS) && client.exitValue() == 0 ? 1 : 0;
        }
        assertEquals(50, in, Files.readString(lab.work.resolve("clients")) + lab.said());
        if (policy.equals("drop")) {
            assertEquals("", Files.readString(lab.work.resolve("clients")), "nobody has to try again");
        }
        assertClosed("behind the last");
        assertAccepted(50);
    }

    @Test
    void twoProfilesBehindOneAddressLetOneConnectionInEach() throws Exception {
        lab.profile("phone", 7001, "phone");
        lab.config("delay = 30"); // longer than four JVMs take on a slow machine
        serve("server");
        lab.startDaemon();
        for (var profile : List.of("laptop", "phone")) {
            useProfile(profile);
            for (var address : ADDRESSES) {
                long before = counter(profile);
                lab.must(lab.knockCommand("-p", "22", address));
                Lab.await("the knock", () -> counter(profile) == before + 1);
            }
        }
        assertOpen("for one");
        assertEquals(4, lab.said("opened port 22"), lab.said());
        assertOpen("for the other");
        assertClosed("behind both");
        assertAccepted(4);
    }

    /** What a profile takes next. */
    private long counter(String profile) throws IOException {
        return Long.parseLong(Files.readString(lab.dir.resolve("profiles/" + profile + "/counter")).strip());
    }

    @Test
    void aQuarterOfAllOpeningsIsForOneProfileAndOthersStillGetIn() throws Exception {
        lab.profile("phone", 7001, "phone");
        lab.config("delay = 60");
        serve("server");
        append("");
        lab.must("chmod", "644", lab.kernLog.toString());
        lab.startDaemon("--log", lab.kernLog.toString());
        Lab.await("tail", () -> lab.daemon().descendants().count() == 2);
        append(lines("laptop", 7000, 0, 40)); // 20 for each address of one port
        append(lines("laptop", 7000, 40, 260).replace("SRC=192.0.2.2", "SRC=192.0.2.3").replace("SRC=2001:db8::2", "SRC=2001:db8::3"));
        Lab.await(lab::said, () -> counter("laptop") == 260 && lab.said("profile laptop") == 260);
        assertEquals(140, lab.said("opened port 22"), "40, and of 220 those 50 that may wait for one address and port");
        assertEquals(120, lab.said("refused, as too many openings are not over: port 22"));
        var others = new StringBuilder();
        for (int host = 4; host < 7; host++) {
            others.append(lines("laptop", 7000, 260 + 50 * (host - 4), 310 + 50 * (host - 4)).replace("SRC=192.0.2.2", "SRC=192.0.2." + host)
                    .replace("SRC=2001:db8::2", "SRC=2001:db8::" + host));
        }
        append(others.toString());
        Lab.await(lab::said, () -> counter("laptop") == 410 && lab.said("profile laptop") == 410);
        assertEquals(250, lab.said("opened port 22"));
        assertEquals(40, lab.said("refused, as too many openings of this profile are not over: port 22"));
        append(lines("phone", 7001, 0, 2).replace("SRC=192.0.2.2", "SRC=192.0.2.9"));
        Lab.await(lab::said, () -> lab.said("opened port 22 for 192.0.2.9, profile phone") == 1);
        for (int i = 0; i < 20; i++) {
            assertOpen("for the first forty");
        }
    }

    private void append(String text) throws IOException {
        Files.writeString(lab.kernLog, text, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
    }

    /** What the kernel would log for knocks with these counters, by turns over IPv4 and IPv6. */
    private String lines(String profile, int knockPort, int from, int to) throws Exception {
        var codec = Lab.credentials(lab.dir.resolve("profiles").resolve(profile)).codec();
        var lines = new StringBuilder();
        for (int counter = from; counter < to; counter++) {
            var f = codec.seal(22, counter, Carrier.COVER, new byte[0]);
            lines.append(counter % 2 == 0 ? Traces.line(f, knockPort) : Traces.line6(f, knockPort));
        }
        return lines.toString();
    }
}
