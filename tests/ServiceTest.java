import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

import org.junit.jupiter.api.AutoClose;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** The systemd unit, and the daemon under its restrictions as far as they can be had without systemd. */
class ServiceTest {
    private static final Path UNIT = Path.of("knockknock-daemon.service");
    @AutoClose
    private Lab lab;

    @BeforeEach
    void startLab() throws Exception {
        lab = new Lab();
        lab.profile("laptop", 666, Lab.SERVER);
    }

    @Test
    void theUnitIsSoundAndRatedTwoAndAHalfOrBetter() throws Exception {
        var unit = Files.readString(UNIT).replace("/usr/local/bin/knockknock-daemon", "/usr/bin/true");
        var copy = Files.writeString(lab.work.resolve(UNIT.toString()), unit);
        var verify = lab.run(List.of("systemd-analyze", "verify", copy.toString()));
        assertEquals(new Lab.Result(0, "", ""), verify);
        var rating = Pattern.compile("Overall exposure level for \\S+: ([0-9.]+)")
                .matcher(lab.must("systemd-analyze", "security", "--offline=yes", copy.toString()));
        assertTrue(rating.find());
        assertTrue(Double.parseDouble(rating.group(1)) <= 2.5, rating.group());
    }

    @Test
    void theInstalledCommandsAreRootsOwnAndServeAnOrdinaryUserAndGoAway() throws Exception {
        var bin = lab.install();
        var prefix = bin.getParent().toString();
        assertEquals("", lab.must("find", prefix, "!", "-user", "root", "-o", "!", "-type", "l", "-perm", "/022"));
        assertTrue(Files.readString(UNIT).contains("\nExecStart=/usr/local/bin/knockknock-daemon\n"));
        for (var command : List.of("knockknock", "knockknock-daemon", "knockknock-genprofile", "knockknock-proxy")) {
            var help = lab.run(lab.asAlice(List.of(bin.resolve(command).toString(), "--help"))); // as herself, without sudo
            assertEquals("", help.err());
            assertTrue(help.out().startsWith("Usage: " + command + " "), help.out());
            lab.must("env", "JAVA_TOOL_OPTIONS=-Xshare:on", bin.resolve(command).toString(), "--help"); // fails without the archive
        }
        lab.serve(22);
        lab.startDaemon(List.of(bin.resolve("knockknock-daemon").toString()), "--log", "/dev/kmsg");
        Files.writeString(Path.of("/etc/sudoers.d/alice"), "alice ALL=(root) NOPASSWD: " + bin.resolve("knockknock") + "\n");
        assertEquals(new Lab.Result(0, "", ""), lab.run(lab.asAlice(List.of(bin.resolve("knockknock").toString(), "-p", "22", Lab.SERVER))));
        Lab.await("the knock", () -> lab.said("opened port 22") == 1);
        assertTrue(lab.connects(Lab.SERVER, 22), lab.said());
        lab.must("sh", "-c", "cd " + lab.work + " && prefix/lib/knockknock/jdk/bin/java -cp prefix/lib/knockknock/knockknock.jar picocli.AutoComplete -n knockknock Knockknock");
        assertEquals("--classic\n", lab.must("bash", "-c", ". " + lab.work.resolve("knockknock_completion")
                + "; COMP_WORDS=(knockknock --c) COMP_CWORD=1; compopt() { :; }; _complete_knockknock; echo ${COMPREPLY[@]}"));
        lab.must("env", "PREFIX=" + prefix, "./install.sh", "--remove");
        assertEquals("", lab.must("find", prefix, "-type", "f"));
    }

    @Test
    void aWholeKnockWorksUnderTheUnitsRestrictions() throws Exception {
        var bounding = "-all,+" + setting("CapabilityBoundingSet").getFirst().toLowerCase().replace("cap_", "").replace(" ", ",+");
        lab.serve(22);
        var daemon = lab.install().resolve("knockknock-daemon").toString();
        var trace = Files.createDirectory(lab.work.resolve("trace")).resolve("calls");
        // / read-only but for the profiles, /home and /root empty, no way to more privileges
        var command = List.of("unshare", "--mount", "sh", "-c", "mount --bind / / && mount --bind \"$1\" \"$1\""
                + " && mount --bind \"$2\" \"$2\" && mount -o remount,ro,bind / && mount -t tmpfs tmpfs /home && mount -t tmpfs tmpfs /root"
                + " && mount -t tmpfs tmpfs /var/tmp && shift 2 && exec \"$@\"", "sh", lab.dir.toString(), trace.getParent().toString(),
                "setpriv", "--no-new-privs", "--bounding-set=" + bounding, "--inh-caps=-all",
                "strace", "-f", "-qq", "-o", trace.toString(), daemon);
        lab.startDaemon(command, "--log", "/dev/kmsg");
        assertFalse(lab.connects(Lab.SERVER, 22));
        lab.knock(22, Lab.SERVER);
        assertTrue(lab.connects(Lab.SERVER, 22), lab.said());
        assertFalse(lab.connects(Lab.SERVER, 22));

        // what its filters would have said
        var allowed = new TreeSet<String>();
        for (var filter : setting("SystemCallFilter")) {
            for (var name : filter.replaceFirst("^~", "").split(" ")) {
                if (filter.startsWith("~")) {
                    allowed.removeAll(expand(name));
                } else {
                    allowed.addAll(expand(name));
                }
            }
        }
        var calls = Files.readString(trace);
        var used = Pattern.compile("(?m)^\\d+ +(?:<\\.\\.\\. )?([a-z_0-9]+)").matcher(calls).results().map(call -> call.group(1))
                .collect(Collectors.toCollection(TreeSet::new));
        assertTrue(used.containsAll(Set.of("execve", "pipe2", "setuid", "fdatasync", "sendmsg")), used.toString());
        used.removeAll(allowed);
        assertEquals(Set.of(), used);
        var families = Set.of(setting("RestrictAddressFamilies").getFirst().split(" "));
        var opened = Pattern.compile("socket\\((AF_[A-Z0-9]+)").matcher(calls).results().map(call -> call.group(1)).collect(Collectors.toSet());
        opened.removeAll(families);
        assertEquals(Set.of(), opened);
    }

    private static List<String> setting(String key) throws Exception {
        return Files.readAllLines(UNIT).stream().filter(line -> line.startsWith(key + "=")).map(line -> line.substring(key.length() + 1)).toList();
    }

    /** The system calls in a set of systemd's. */
    private Set<String> expand(String name) throws Exception {
        if (!name.startsWith("@")) {
            return Set.of(name);
        }
        var calls = new TreeSet<String>();
        for (var line : lab.must("systemd-analyze", "syscall-filter", name).lines().skip(1).map(String::strip).toList()) {
            if (!line.isEmpty() && !line.startsWith("#")) {
                calls.addAll(expand(line));
            }
        }
        return calls;
    }

    @Test
    void theCheckFindsNothingWrongWithASoundServer() throws Exception {
        var rules = lab.mustOn("server", "iptables-save", "-t", "filter").replaceAll("(?m)^#.*\n", "");
        var result = lab.check("--log", "/dev/kmsg");
        assertEquals(0, result.exit(), result.toString());
        assertFalse(result.out().contains("problem"), result.out());
        assertTrue(result.out().contains("ok       profile laptop: knock port 666, next counter 0, opens any port\n"), result.out());
        assertEquals(rules, lab.mustOn("server", "iptables-save", "-t", "filter").replaceAll("(?m)^#.*\n", ""));
        lab.startRsyslog();
        assertTrue(lab.check("--log", lab.kernLog.toString()).out().contains("ok       log " + lab.kernLog + ": a program writes to it\n"));
    }

    @Test
    void theCheckNamesEveryProblemAndItsRemedy() throws Exception {
        lab.profile("phone", 777, "phone");
        lab.must("chmod", "644", lab.dir.resolve("profiles/phone/mac.key").toString());
        lab.serve(666);
        lab.mustOn("server", "iptables", "-P", "INPUT", "ACCEPT");
        Files.writeString(lab.kernLog, "");
        var result = lab.check("--log", lab.kernLog.toString());
        assertEquals(1, result.exit(), result.toString());
        for (var problem : List.of("phone/mac.key is open to other users: chmod 600", "a service listens on the knock port 666",
                "no program writes to " + lab.kernLog, "iptables lets everything in")) {
            assertTrue(result.out().lines().anyMatch(line -> line.startsWith("problem  ") && line.contains(problem)), problem + result.out());
        }
        assertTrue(result.out().contains("ok       ip6tables denies"), result.out());
    }
}
