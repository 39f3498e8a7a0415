import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

import org.junit.jupiter.api.AutoClose;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** knockknock-check: what it says of a server, beside what then happens to a real knock. */
class CheckTest {
    private static final String OPENS = "ct state established,related accept";
    @AutoClose
    private static Lab lab;

    @BeforeAll
    static void startDaemon() throws Exception {
        lab = new Lab();
        lab.profile("laptop", 666, Lab.SERVER);
        lab.serve(22);
        lab.startDaemon();
    }

    private static Lab.Result check(String... where) throws Exception {
        var command = new ArrayList<>(List.of(where));
        command.addAll(lab.script("knockknock-check", "--dir", lab.dir.toString()));
        return lab.run(Lab.on("server", command));
    }

    /** Some line begins with {@code kind} and contains the thing, for each thing. */
    private static void assertSays(Lab.Result result, String kind, String... things) {
        for (var thing : things) {
            assertTrue(result.out().lines()
                    .anyMatch(line -> line.startsWith(kind) && line.contains(thing)),
                    kind + thing + ": " + result);
        }
        assertEquals(result.out().contains("problem  ") ? 1 : 0, result.exit(), result.toString());
    }

    private static String rules() throws Exception {
        return lab.mustOn("server", "nft", "-st", "list", "ruleset");
    }

    /** The host's rules become those of minimal-firewall.sh. */
    private static void hasMinimalFirewall() throws Exception {
        flush();
        lab.mustOn("server", "sh", "-c", "iptables -F; ip6tables -F; "
                + Path.of("minimal-firewall.sh").toAbsolutePath());
    }

    /** Takes all rules away, also the daemon's, which makes its own anew. */
    private static void flush() throws Exception {
        long anew = lab.said("it is made anew");
        lab.mustOn("server", "nft", "flush", "ruleset");
        Lab.await("the log rule to be made anew", () -> lab.said("it is made anew") > anew);
    }

    /** The host's rules become an nft table with this chain for input, and what else is given. */
    private static void hostHas(String chain, String more) throws Exception {
        flush();
        lab.mustOn("server", "nft", """
                table inet host {
                    %s
                    chain input {
                        type filter hook input priority filter; %s
                    }
                }
                """.formatted(more, chain));
    }

    @Test
    void ofASoundServerItSaysWhatItSawAndChangesNothing() throws Exception {
        hasMinimalFirewall();
        var rules = rules();
        var result = check();
        assertSays(result, "ok  ", " profile laptop: knock port 666, next counter ",
                " nothing listens on port 666", " profiles: 1", " log /dev/kmsg",
                " log rule and opening: both work on this kernel", " connections tracked: ",
                " a SYN to port 666 over loopback is in the log",
                " over IPv4 what no rule accepts is denied by 'policy drop', chain iptables "
                        + "filter INPUT",
                " over IPv4 an opening's connection is accepted by '-m conntrack --ctstate "
                        + "RELATED,ESTABLISHED -j ACCEPT'",
                " over IPv6 what no rule accepts is denied by 'policy drop', chain iptables "
                        + "filter INPUT",
                " over IPv6 an opening's connection is accepted by '-m conntrack --ctstate "
                        + "RELATED,ESTABLISHED -j ACCEPT'");
        assertEquals("", result.err());
        assertEquals(0, result.exit(), result.out());
        assertFalse(result.out().contains("unsure"), result.out());
        assertEquals(rules, rules());
    }

    @Test
    void aFileThatIsFollowedIsCheckedTooAndNothingIsLeftRunning() throws Exception {
        hasMinimalFirewall();
        lab.mustOn("server", "iptables", "-A", "INPUT", "-p", "udp", "--dport", "9", "-j", "LOG",
                "--log-prefix", "lab-probe: ");
        lab.startRsyslog();
        assertSays(lab.check("--log", lab.kernLog.toString()), "ok  ",
                " log " + lab.kernLog + ": a program writes to it",
                        " a SYN to port 666 over loopback is in the log");
        Lab.await("tail to end", () -> lab.run(List.of("pgrep", "-f", "^/usr/bin/tail .*"
                + lab.kernLog)).exit() == 1);
    }

    @Test
    void everyProblemIsNamedWithItsRemedy() throws Exception {
        hasMinimalFirewall();
        lab.profile("phone", 777, "phone");
        var phone = lab.dir.resolve("profiles/phone");
        lab.must("chmod", "644", phone.resolve("mac.key").toString());
        var service = lab.start(lab.work.resolve("service"),
                Lab.on("server", "nc", "-lk", Lab.SERVER, "666"));
        Lab.await("a service", () -> lab.mustOn("server", "ss", "-Hltn", "sport = :666").lines()
                .count() == 1);
        lab.mustOn("server", "iptables", "-P", "INPUT", "ACCEPT");
        var log = Files.createFile(lab.work.resolve("nobodys.log"));
        var result = lab.check("--log", log.toString());
        lab.must("rm", "-r", phone.toString());
        service.destroy();
        assertSays(result, "problem  ", "phone/mac.key is open to other users: chmod 600",
                "a service listens on the knock port 666", "no program writes to " + log,
                "over IPv4 no rule denies what the others do not accept, so ports are open "
                        + "already");
        assertSays(result, "ok  ", "over IPv6 what no rule accepts is denied by 'policy drop'");
    }

    @Test
    void whatTheFirewallHalfLacksIsNamed() throws Exception {
        var without = "cp -a /usr/sbin $0 && cd $0/sbin && rm %s && mount --bind . /usr/sbin && "
                + "exec \"$@\"";
        var work = lab.work.toString();
        var noNft = check("unshare", "--mount", "sh", "-c", without.formatted("nft"), work);
        assertSays(noNft, "problem  ", "the firewall half cannot work here");
        assertTrue(noNft.err().contains("knockknock: the firewall half: nft: Cannot run program "),
                noNft.err());

        var unprivileged = check("setpriv", "--bounding-set=-net_admin");
        assertSays(unprivileged, "problem  ", "the firewall half did not start: ");
        assertTrue(unprivileged.err().contains("setpriv: apply capabilities: Operation not "
                + "permitted"),
                unprivileged.err());
    }

    /**
     * Of each rule set it says what then happens: a knock opens, it does not, or that it cannot
     * tell.
     */
    @ParameterizedTest
    @CsvSource(delimiter = '|', quoteCharacter = '`', value = {
        "ok      | true  | policy drop; ct state established,related accept",
        "ok      | true  | policy drop; ct state { established, related } counter accept",
        "ok      | true  | policy drop; ct state vmap { established : accept, related : accept, "
                + "invalid : drop }",
        "ok      | true  | policy drop; ct state vmap { established : accept, related : jump "
                + "ours }",
        "ok      | true  | policy accept; ct state invalid drop; jump ours; reject",
        "ok      | true  | policy drop; iif lo accept; icmp type echo-request drop; udp dport "
                + "53 drop; jump ours",
        "problem | false | policy drop; ct state established accept",
        "problem | false | policy drop; jump others",
        "problem | false | policy drop; ct state related icmp type echo-request accept",
        "problem | false | policy drop; iif lo ct state related accept",
        "problem | false | policy drop; drop; jump ours",
        "problem | false | policy drop; return; jump ours",
        "unsure  | false | policy drop; iifname eth7 jump ours",
        "unsure  | false | policy drop; tcp dport 22 drop; jump ours",
        "unsure  | true  | policy drop; tcp dport 23 drop; jump ours",
        "unsure  | true  | policy drop; iifname vmap { lo : accept, kk0 : jump ours }",
        "unsure  | false | policy drop; ct state related ct helper sip accept",
        "unsure  | true  | policy drop; ip saddr @bad drop; jump ours"})
    void ofHostRulesItSaysWhatThenHappens(String says, boolean opens,
            String chain) throws Exception {
        hostHas(chain, """
                set bad { type ipv4_addr; elements = { 198.51.100.1 }; }
                chain ours { ct state established,related accept; }
                chain others { iif lo accept; goto last; }
                chain last { ct state established accept; return; }
                """);
        var rules = HostRules.read(4, lab.mustOn("server", "nft", "--terse", "list", "ruleset"), "",
                "");
        assertEquals(1, rules.input("related").size());
        var way = rules.input("related").getFirst();
        assertEquals(says, way.doubt().isPresent() ? "unsure"
                : way.end().fate() == HostRules.Fate.ACCEPTED ? "ok" : "problem", way.toString());
        lab.knock(22, Lab.SERVER);
        assertEquals(opens, lab.connects(Lab.SERVER, 22), lab.said());
        if (!opens) { // the next case is to find none
            lab.mustOn("server", "conntrack", "-F", "expect");
        }
    }

    @Test
    void eachOfSeveralChainsHasToAccept() throws Exception {
        hostHas("policy drop; " + OPENS, """
                chain second {
                    type filter hook input priority 10; policy drop;
                    ct state established accept
                }""");
        var result = check();
        assertSays(result, "ok  ", "over IPv6 an opening's connection is accepted by 'ct state "
                + "established,related accept', chain inet host input");
        assertSays(result, "ok  ", "over IPv6 an established connection is accepted by 'ct "
                + "state established accept', chain inet host second");
        assertSays(result, "problem", "over IPv6 an opening's connection is denied by 'policy "
                + "drop', chain inet host second");
    }

    /** Each of these hides openings or knocks; it names the rule. */
    @ParameterizedTest
    @ValueSource(strings = {"nft add rule inet host raw tcp dport 22 notrack",
            "nft add rule inet host raw iif kk0 ct zone set 5",
        "iptables -t raw -A PREROUTING -p tcp --dport 22 -j NOTRACK",
                "iptables -t raw -A PREROUTING -i kk0 -j CT --zone 5"})
    void connectionsThatAreNotTrackedAsOursAreNamed(String rule) throws Exception {
        hostHas("policy drop; " + OPENS, "chain raw { type filter hook prerouting priority raw; }");
        lab.mustOn("server", rule.split(" "));
        assertSays(check(), "unsure", "no opening lets in what this rule meets: '");
        lab.knock(22, Lab.SERVER);
        assertFalse(lab.connects(Lab.SERVER, 22), lab.said());
        assertTrue(lab.said().endsWith("opened port 22 for " + Lab.CLIENT + ", profile laptop\n"),
                lab.said());
        lab.mustOn("server", "iptables", "-t", "raw", "-F");
        lab.mustOn("server", "conntrack", "-F", "expect"); // the next case is to find none
    }

    @Test
    void knocksThatDoNotReachTheLogAreNoticed() throws Exception {
        hostHas("policy drop; " + OPENS,
                "chain early { type filter hook prerouting priority -400; }");
        lab.mustOn("server", "nft", "add rule inet host early tcp dport 666 drop");
        var result = check();
        assertSays(result, "problem", "a SYN to port 666 over loopback is not in the log");
        assertSays(result, "unsure", "hides the knocks that it meets: 'tcp dport 666 drop'");
    }

    @Test
    void aSavedCopyOfItsTableAndAFullConnectionTableAreProblems() throws Exception {
        var saved = Path.of("/etc/nftables.d/saved.nft");
        Files.createDirectories(saved.getParent());
        Files.writeString(saved, rules());
        try {
            assertSays(check(), "problem", saved + " has a copy of the daemon's own table");
        } finally {
            Files.delete(saved);
        }
        var full = check("unshare", "--mount", "sh", "-c",
                "mount -t tmpfs tmpfs /proc/sys/net/netfilter && cd /proc/sys/net/netfilter"
                + " && echo 95 > nf_conntrack_count && echo 100 > nf_conntrack_max && exec \"$@\"",
                        "sh");
        assertSays(full, "problem", "the kernel tracks 95 connections, of at most 100");
    }

    @Test
    void aLargeBlocklistIsNoHindrance() throws Exception {
        var elements = IntStream.range(0, 200_000)
                .mapToObj(i -> "10." + (i >> 16) + "." + (i >> 8 & 255) + "." + (i & 255))
                .collect(Collectors.joining(", "));
        var file = Files.writeString(lab.work.resolve("list.nft"),
                "table inet host { set bad { type ipv4_addr; elements = { " + elements
                + " }; }; chain input { type filter hook input priority 0; policy drop; ip "
                        + "saddr @bad drop; ct state established,related accept; }; }\n");
        lab.mustOn("server", "sh", "-c", "nft flush ruleset && nft -f " + file);
        var result = check();
        assertSays(result, "unsure", "whether over IPv4 an opening's connection is accepted "
                + "depends on 'ip saddr @bad drop'");
        assertEquals("", result.err());
    }
}
