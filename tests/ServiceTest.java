import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Pattern;

import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** The systemd unit, and the daemon under its restrictions as far as they can be had without systemd. */
class ServiceTest {
    private static final Path UNIT = Path.of("knockknock-daemon.service");
    private Lab lab;

    @BeforeEach
    void startLab() throws Exception {
        lab = new Lab();
        lab.profile("laptop", 666, Lab.SERVER);
    }

    @AfterEach
    void closeLab() throws Exception {
        lab.close();
    }

    @Test
    void theUnitIsSoundAndRatedTwoAndAHalfOrBetter() throws Exception {
        var unit = Files.readString(UNIT).replace("/usr/local/lib/knockknock/jdk", System.getProperty("java.home"));
        var copy = Files.writeString(lab.work.resolve(UNIT.toString()), unit);
        var verify = lab.run(List.of("systemd-analyze", "verify", copy.toString()));
        assertEquals(new Lab.Result(0, "", ""), verify);
        var rating = Pattern.compile("Overall exposure level for \\S+: ([0-9.]+)")
                .matcher(lab.must("systemd-analyze", "security", "--offline=yes", copy.toString()));
        assertTrue(rating.find());
        assertTrue(Double.parseDouble(rating.group(1)) <= 2.5, rating.group());
    }

    @Test
    void theUnitRunsTheDaemonWithTheScriptsOwnOptions() throws Exception {
        var options = Files.readAllLines(Path.of("knockknock-daemon.java")).stream().filter(line -> line.startsWith("//RUNTIME_OPTIONS "))
                .findFirst().orElseThrow().substring("//RUNTIME_OPTIONS ".length());
        assertTrue(Files.readString(UNIT).contains("/jdk/bin/java " + options + " -jar "), options);
    }

    @Test
    void aWholeKnockWorksUnderTheUnitsRestrictions() throws Exception {
        var capabilities = Pattern.compile("(?m)^CapabilityBoundingSet=(.*)$").matcher(Files.readString(UNIT));
        assertTrue(capabilities.find());
        var bounding = "-all,+" + capabilities.group(1).toLowerCase().replace("cap_", "").replace(" ", ",+");
        lab.serve(22);
        lab.must("chmod", "711", lab.work.toString());
        var exported = Files.createDirectory(lab.work.resolve("exported"));
        lab.must(System.getenv("KNOCK_JBANG"), "export", "portable", "-O", exported.resolve("knockknock-daemon.jar").toString(),
                "knockknock-daemon.java");
        var script = lab.script("knockknock-daemon", "--dir", lab.dir.toString(), "--log", "/dev/kmsg");
        int classPath = script.indexOf("-classpath");
        var java = new ArrayList<>(script.subList(0, classPath));
        java.addAll(List.of("-jar", exported.resolve("knockknock-daemon.jar").toString()));
        java.addAll(script.subList(classPath + 3, script.size()));
        // / read-only but for the profiles, /home and /root empty, no way to more privileges
        var command = new ArrayList<>(List.of("unshare", "--mount", "sh", "-c", "mount --bind / / && mount --bind \"$1\" \"$1\""
                + " && mount -o remount,ro,bind / && mount -t tmpfs tmpfs /home && mount -t tmpfs tmpfs /root"
                + " && mount -t tmpfs tmpfs /var/tmp && shift && exec \"$@\"", "sh", lab.dir.toString(),
                "setpriv", "--no-new-privs", "--bounding-set=" + bounding, "--inh-caps=-all"));
        command.addAll(java);
        lab.start(lab.daemonOut, Lab.on("server", command));
        Lab.await(() -> "the daemon: " + lab.said(), () -> lab.said("ready:") == 1);
        assertFalse(lab.connects(Lab.SERVER, 22));
        lab.knock(22, Lab.SERVER);
        assertTrue(lab.connects(Lab.SERVER, 22), lab.said());
        assertFalse(lab.connects(Lab.SERVER, 22));
    }

    private Lab.Result check(String... arguments) throws Exception {
        var all = new ArrayList<>(List.of("--check", "--dir", lab.dir.toString()));
        all.addAll(List.of(arguments));
        return lab.run(Lab.on("server", lab.script("knockknock-daemon", all.toArray(String[]::new))));
    }

    @Test
    void theCheckFindsNothingWrongWithASoundServer() throws Exception {
        var rules = lab.mustOn("server", "iptables-save", "-t", "filter").replaceAll("(?m)^#.*\n", "");
        var result = check("--log", "/dev/kmsg");
        assertEquals(0, result.exit(), result.toString());
        assertFalse(result.out().contains("problem"), result.out());
        assertTrue(result.out().contains("ok       profile laptop: knock port 666, next counter 0, opens any port\n"), result.out());
        assertEquals(rules, lab.mustOn("server", "iptables-save", "-t", "filter").replaceAll("(?m)^#.*\n", ""));
    }

    @Test
    void theCheckNamesEveryProblemAndItsRemedy() throws Exception {
        lab.profile("phone", 777, "phone");
        lab.must("chmod", "644", lab.dir.resolve("profiles/phone/mac.key").toString());
        lab.serve(666);
        lab.mustOn("server", "iptables", "-P", "INPUT", "ACCEPT");
        Files.writeString(lab.kernLog, "");
        var result = check("--log", lab.kernLog.toString());
        assertEquals(1, result.exit(), result.toString());
        for (var problem : List.of("phone/mac.key is open to other users: chmod 600", "a service listens on the knock port 666",
                "no program writes to " + lab.kernLog, "iptables lets everything in")) {
            assertTrue(result.out().lines().anyMatch(line -> line.startsWith("problem  ") && line.contains(problem)), problem + result.out());
        }
        assertTrue(result.out().contains("ok       ip6tables denies"), result.out());
    }
}
