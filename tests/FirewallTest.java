import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.util.List;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Whatever firewall a host has, over IPv4 and IPv6: each knock lets one connection in, and no rule
 * of it changes.
 */
class FirewallTest extends InFirewall {
    @ParameterizedTest
    @CsvSource(delimiter = '|', value = {
        "nft inet | nft -f $W/rules, nft list ruleset > $W/dump; nft flush ruleset; nft -f $W/dump",
        "nft ip, ip6 | nft flush ruleset; nft -f $W/rules",
        "nft owner | ! nft delete table inet host",
        "iptables-nft | iptables -F; ip6tables -F; ./minimal-firewall.sh",
        "iptables-legacy | iptables-legacy -F; ip6tables-legacy -F; PATH=$W/legacy:$PATH "
                + "./minimal-firewall.sh",
        "ufw | ufw reload",
        "firewalld nftables | firewall-cmd --reload, firewall-cmd --complete-reload",
        "firewalld iptables | firewall-cmd --reload, firewall-cmd --complete-reload",
        "container |"})
    void aKnockLetsOneConnectionInAndLeavesTheHostsRulesAsTheyAre(String host,
            String reloads) throws Exception {
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
        // what is tested is the time itself; the kernel's timer may be a quarter of a second late
        Thread.sleep(3400);
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
        "iptables -t raw -A PREROUTING -p tcp --dport 7000 -j DROP; ip6tables -t raw -A "
                + "PREROUTING -p tcp --dport 7000 -j DROP",
        "iptables -t mangle -A PREROUTING -p tcp --dport 7000 -j DROP; ip6tables -t mangle -A "
                + "PREROUTING -p tcp --dport 7000 -j DROP",
        "nft 'table inet sshguard { chain b { type filter hook input priority -10; tcp dport != "
                + "22 drop; }; }'",
        "for t in iptables:192.0.2.9 ip6tables:[2001:db8::9]; do ${t%%:*} -t nat -A PREROUTING "
                + "-p tcp ! --dport 22 -j DNAT"
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
                    for i in $(seq 200); do seq -f "11.$i.%g.0/24," 0 2 255; seq -f \
                "12.$i.%g.0/24," 1 2 255; done
                    for i in $(seq 200); do for j in $(seq 3); do seq -f "$((i + 20)).$j.%g.0/25," \
                255; done; done
                    echo '}; }; chain c { type filter hook input priority filter; ip saddr @s \
                drop; }; }'
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
        assertTrue(peakKilobytes(half) < before + 10_000, before + " -> " + peakKilobytes(half)
                + " KB");
        assertEquals(List.of(), half.descendants().toList());
    }

    private static long peakKilobytes(ProcessHandle process) throws IOException {
        return Traces.kilobytes(process.pid(), "status", "VmHWM");
    }

    /**
     * From the client's wire, but with the server's address and port 0: what an opening's helper
     * might take for FTP.
     */
    private static final String FTP = """
            import socket, struct, sys, time
            server, client, mac = (socket.inet_pton(socket.AF_INET6, sys.argv[1]), \
            socket.inet_pton(socket.AF_INET6, sys.argv[2]),
                bytes.fromhex(sys.argv[3].replace(':', '')))
            out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            out.bind(('kk0', 0x86dd))
            def send(port, seq, flags, data):
                tcp = struct.pack('>HHIIBBHHH', 0, port, seq, 1, 0x50, flags, 64240, 0, 0) + data
                words = server + client + struct.pack('>II', len(tcp), 6) + tcp + bytes(len(tcp) % \
            2)
                total = sum(struct.unpack('>%dH' % (len(words) // 2), words))
                total = (total & 0xffff) + (total >> 16)
                tcp = tcp[:16] + struct.pack('>H', ~(total + (total >> 16)) & 0xffff) + tcp[18:]
                out.send(mac + bytes(6) + b'\\x86\\xdd' + struct.pack('>IHBB', 6 << 28, len(tcp), \
            6, 64) + server + client + tcp)
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
        lab.mustOn("client", "nft", "table inet own { chain pre { type filter hook prerouting "
                + "priority raw; tcp sport 0 drop; }; }");
        var mac = lab.mustOn("server", "cat", "/sys/class/net/kk0/address").strip();
        lab.mustOn("client", "python3", "-c", FTP, Lab.SERVER6, Lab.CLIENT6, mac);
        assertFalse(lab.connects(Lab.SERVER6, 3306),
                lab.mustOn("server", "cat", "/proc/net/nf_conntrack_expect"));
    }
}
