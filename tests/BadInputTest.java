import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Files;
import java.util.ArrayList;
import java.util.List;
import java.util.TreeMap;

import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/**
 * Whatever is wrong, the scripts say so in one line with the remedy, end with the right exit code,
 * and change nothing.
 */
class BadInputTest extends InLab {
    @BeforeEach
    void startLab() throws Exception {
        lab.profile("laptop", 666, Lab.SERVER);
        Files.writeString(lab.kernLog, "");
        lab.must("chgrp", "adm", lab.kernLog.toString());
        lab.must("chmod", "640", lab.kernLog.toString());
    }

    /** Every file below the lab's directory with its mode, owner and content. */
    private String everything() throws Exception {
        var files = new TreeMap<String, String>();
        try (var all = Files.walk(lab.work)) {
            for (var file : all.filter(f -> f.startsWith(lab.dir) || f.startsWith(lab.home))
                    .toList()) {
                files.put(file.toString(), Files.getPosixFilePermissions(file)
                        + (Files.isDirectory(file) ? "" : Files.readString(file)));
            }
        }
        return files + lab.mustOn("server", "iptables", "-S");
    }

    private void refuses(int exit, String says, List<String> command) throws Exception {
        var before = everything();
        var result = lab.run(command);
        assertEquals(exit, result.exit(), result.toString());
        assertEquals("", result.out());
        assertTrue(result.err().startsWith("knockknock: "), result.err());
        assertEquals(1, result.err().lines().count(), result.err());
        assertTrue(result.err().contains(says), result.err());
        assertEquals(before, everything());
    }

    private void clientRefuses(int exit, String says, String... arguments) throws Exception {
        refuses(exit, says, List.of(lab.knockCommand(arguments)));
    }

    private void genprofileRefuses(int exit, String says, String... arguments) throws Exception {
        var all = new ArrayList<>(List.of("--dir", lab.dir.toString()));
        all.addAll(List.of(arguments));
        refuses(exit, says, lab.script("knockknock-genprofile", all.toArray(String[]::new)));
    }

    private void daemonRefuses(int exit, String says, String... arguments) throws Exception {
        var all = new ArrayList<>(List.of("--dir", lab.dir.toString()));
        all.addAll(arguments.length > 0 ? List.of(arguments)
                : List.of("--log", lab.kernLog.toString()));
        refuses(exit, says, Lab.on("server",
                lab.script("knockknock-daemon", all.toArray(String[]::new))));
    }

    @Test
    void theClientRefusesBadArguments() throws Exception {
        clientRefuses(2, "-p=PORT");
        clientRefuses(2, "mutually exclusive", "-p", "22", "--counter", "5", Lab.SERVER);
        for (var counter : List.of("-1", "4294967296", "x", "")) {
            clientRefuses(2, "is not a counter", "--counter", counter, Lab.SERVER);
        }
        for (var port : List.of("0", "65536", "x", "-1", "", "022", "22 ", "1e3")) {
            clientRefuses(2, "is not a port: give a number from 1 to 65535", "-p", port,
                    Lab.SERVER);
        }
        clientRefuses(2, "mutually exclusive", "-4", "-6", "-p", "22", Lab.SERVER);
        clientRefuses(2, "mutually exclusive", "--source", "203.0.113.7", "--any-source", "-p",
                "22", Lab.SERVER);
        clientRefuses(2, "'example.org' is not an address", "--source", "example.org", "-p", "22",
                Lab.SERVER);
        clientRefuses(2, "'' is not an address", "--source", "", "-p", "22", Lab.SERVER);
        clientRefuses(2, "--any-source", "--any-source=false", "-p", "22", Lab.SERVER);
        clientRefuses(2, "'' is not a host name", "-p", "22", "");
        clientRefuses(2, "--loud", "-p", "22", "--loud");
        clientRefuses(2, "two", "-p", "22", "one", "two");
        clientRefuses(2, "is not a host name", "-p", "22", "../../etc");
        // nor a file to read arguments from
        clientRefuses(2, "'@/etc/shadow' is not a host name", "-p", "22", "@/etc/shadow");
    }

    @Test
    void theClientSaysWhichProfileIsMissing() throws Exception {
        clientRefuses(1, "there is no profile", "-p", "22", "elsewhere.example");
        lab.profile("phone", 777, "unknown.invalid");
        clientRefuses(1, "there are several profiles", "-p", "22");
        clientRefuses(1, "the host name unknown.invalid is unknown", "-p", "22", "unknown.invalid");
        clientRefuses(1, "has no IPv6 address", "-6", "-p", "22", Lab.SERVER);
        lab.must("rm", "-r", lab.clientProfile(Lab.SERVER).toString(),
                lab.clientProfile("unknown.invalid").toString());
        clientRefuses(1, "there is no profile in", "-p", "22");
    }

    @Test
    void theClientRefusesADamagedProfile() throws Exception {
        var profile = lab.clientProfile(Lab.SERVER);
        lab.must("chmod", "644", profile.resolve("mac.key").toString());
        clientRefuses(1, "chmod 600", "-p", "22", Lab.SERVER);
        lab.must("chmod", "600", profile.resolve("mac.key").toString());
        Files.writeString(profile.resolve("counter"), "forty-two\n");
        clientRefuses(1, "counter is damaged", "-p", "22", Lab.SERVER);
        Files.writeString(profile.resolve("counter"), "4294967296\n");
        clientRefuses(1, "has used all its counters", "-p", "22", Lab.SERVER);
        Files.writeString(profile.resolve("counter"), "0\n");
        Files.writeString(profile.resolve("config"), "[main]\nknock_port = 666\nknok = 1\n");
        clientRefuses(1, "unknown setting 'knok'", "-p", "22", Lab.SERVER);
        Files.writeString(profile.resolve("config"), "[main]\nknock_port = 666\n");
        Files.delete(profile.resolve("cipher.key"));
        clientRefuses(1, "cipher.key is missing", "-p", "22", Lab.SERVER);
    }

    @Test
    void theClientRefusesAHostWithoutARoute() throws Exception {
        lab.profile("far", 777, "198.51.100.1");
        clientRefuses(1, "no route to 198.51.100.1", "-p", "22", "198.51.100.1");
    }

    @Test
    void genprofileRefusesWhatWouldClash() throws Exception {
        genprofileRefuses(1, "exists: choose another name", "laptop", "777");
        genprofileRefuses(1, "knock port 666 belongs to", "phone", "666");
        genprofileRefuses(2, "is not a port", "phone", "0");
        genprofileRefuses(2, "is not a port", "phone", "65536");
        genprofileRefuses(2, "KNOCKPORT", "phone");
        genprofileRefuses(2, "KNOCKPORT", "--counter", "5", "laptop", "777");
        genprofileRefuses(1, "there is no profile " + lab.dir.resolve("profiles/phone"),
                "--counter", "5", "phone");
        genprofileRefuses(2, "mutually exclusive", "--counter", "5", "--open", "22", "laptop");
        genprofileRefuses(2, "is not a port", "--open", "22,ssh", "phone", "777");
        genprofileRefuses(2, "port 22 is TCP's and UDP's", "--open", "22,22/udp", "phone", "777");
        for (var name : List.of("", ".", "..", ".hidden", "a/b", "-x/", "a b", "a\nb",
                "x".repeat(65))) {
            genprofileRefuses(2, "cannot be a profile's name", "--", name, "777");
        }
    }

    @Test
    void aNewProfileIsItsOwnersAloneAndHasTheOpenPortsThatWereAskedFor() throws Exception {
        var made = lab.run(lab.script("knockknock-genprofile", "--dir", lab.dir.toString(),
                "--open", "22,443", "phone", "888"));
        assertEquals(0, made.exit());
        assertEquals("700 600 600 600 600\n",
                lab.must("sh", "-c", "cd '" + lab.dir.resolve("profiles/phone")
                + "' && echo $(stat -c %a . cipher.key config counter mac.key)"));
        assertEquals("[main]\nknock_port = 888\nopen_ports = 22,443\n",
                Files.readString(lab.dir.resolve("profiles/phone/config")));
    }

    @Test
    void aCounterIsSetForwardOnBothSidesAndNeverBack() throws Exception {
        var server = lab.script("knockknock-genprofile", "--dir", lab.dir.toString(), "--counter",
                "500", "laptop");
        assertEquals(new Lab.Result(0, "", ""), lab.run(server));
        assertEquals(new Lab.Result(0, "", ""),
                lab.run(List.of(lab.knockCommand("--counter", "700", Lab.SERVER))));
        for (var profile : List.of(lab.dir.resolve("profiles/laptop"),
                lab.clientProfile(Lab.SERVER))) {
            assertEquals(profile.startsWith(lab.dir) ? "0000000500\n" : "0000000700\n",
                    Files.readString(profile.resolve("counter")));
        }
        genprofileRefuses(1, "is at 500 already: a counter only moves forward", "--counter", "499",
                "laptop");
        clientRefuses(1, "is at 700 already: a counter only moves forward", "--counter", "699",
                Lab.SERVER);
        lab.startDaemon("--log", lab.kernLog.toString());
        genprofileRefuses(1, "knockknock-daemon uses " + lab.dir, "--counter", "600", "laptop");
    }

    @Test
    void theDaemonRefusesABadConfig() throws Exception {
        for (var bad : List.of("delay = 0", "delay = soon", "delay = 99999", "error_window = 0",
                "colour = red", "delay 15", "error_window = 10001")) {
            lab.config(bad);
            daemonRefuses(1, lab.dir.resolve("config").toString());
        }
        lab.config("user = root");
        daemonRefuses(1, "must not stay root");
        lab.config("user = nosuchuser");
        daemonRefuses(1, "user = nosuchuser: there is no such user");
        lab.config("group = nosuchgroup");
        daemonRefuses(1, "group = nosuchgroup: there is no such group");
        lab.config("delay = 3");
        daemonRefuses(1, "there is no log /no/such/log", "--log", "/no/such/log");
        daemonRefuses(2, "Unknown option", "--lgo", "x");
        lab.must("chmod", "600", lab.kernLog.toString());
        var result = lab.run(Lab.on("server",
                lab.script("knockknock-daemon", "--dir", lab.dir.toString(), "--log",
                lab.kernLog.toString())));
        assertEquals(1, result.exit());
        assertTrue(result.err().contains(" may not read " + lab.kernLog), result.err());
    }

    @Test
    void theDaemonRefusesBadProfiles() throws Exception {
        var profile = lab.dir.resolve("profiles/laptop");
        Files.writeString(profile.resolve("counter"), "?\n");
        daemonRefuses(1, "counter is damaged");
        Files.writeString(profile.resolve("counter"), "0\n");
        lab.must("cp", "-a", profile.toString(), profile.resolveSibling("twin").toString());
        daemonRefuses(1, "have the same knock_port");
        Files.writeString(profile.resolveSibling("twin").resolve("config"),
                "[main]\nknock_port = 777\nopen_ports = 53/udp\n");
        lab.addSetting(profile, "open_ports = 22,53");
        daemonRefuses(1, "port 53 is TCP's and UDP's, but one server can open only one of them");
        lab.must("rm", "-r", profile.toString(), profile.resolveSibling("twin").toString());
        daemonRefuses(1, "there is no profile in");
    }

    @Test
    void aSecondDaemonOnTheSameDirectoryIsRefused() throws Exception {
        lab.startDaemon("--log", lab.kernLog.toString());
        daemonRefuses(1, "another knockknock-daemon uses");
        assertTrue(lab.daemon().isAlive());
    }

    @Test
    void aHostWithoutNftIsToldSo() throws Exception {
        var hide = "mount --bind /dev/null /usr/sbin/nft; exec \"$@\"";
        var command = new ArrayList<>(List.of("unshare", "-m", "sh", "-c", hide, "sh"));
        command.addAll(Lab.on("server", lab.script("knockknock-daemon", "--dir",
                lab.dir.toString())));
        var result = lab.run(command);
        assertEquals(1, result.exit(), result.toString());
        assertTrue(result.err().startsWith("knockknock: the firewall half: nft: Cannot run "
                + "program "), result.err());
    }
}
