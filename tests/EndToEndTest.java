import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;

import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * The main job with nothing left out: real scripts, a real packet, the kernel's log through
 * rsyslog, real iptables.
 */
class EndToEndTest extends InLab {
    @BeforeEach
    void startLab() throws Exception {
        lab.profile("laptop", 666, Lab.SERVER);
    }

    private void startServer() throws Exception {
        lab.serve(22);
        lab.startRsyslog();
        lab.startDaemon("--log", lab.kernLog.toString());
    }

    @ParameterizedTest
    @ValueSource(strings = {"cover", "classic"})
    void oneKnockOpensOnePortForOneConnection(String carrier) throws Exception {
        lab.addSetting(lab.clientProfile(Lab.SERVER), "carrier = " + carrier);
        startServer();
        assertFalse(lab.connects(Lab.SERVER, 22), "closed before");
        lab.knock(22, Lab.SERVER);
        assertEquals(1, lab.said("opened port 22 for " + Lab.CLIENT + ", profile laptop"),
                lab.said());
        assertTrue(lab.connects(Lab.SERVER, 22), "open for one");
        assertFalse(lab.connects(Lab.SERVER, 22), "closed behind it");
    }

    @Test
    void anUnusedOpeningIsClosedAfterTheDelay() throws Exception {
        startServer();
        lab.knock(22, Lab.SERVER);
        long opened = System.nanoTime();
        // the time itself is tested
        Thread.sleep(Lab.DELAY_MILLIS - (System.nanoTime() - opened) / 1_000_000);
        assertFalse(lab.connects(Lab.SERVER, 22));
    }

    @Test
    void theServerBindsNoSocketAndSendsNothing() throws Exception {
        startServer();
        var capture = lab.capture("-vi", "kk0", "tcp or udp or icmp");
        lab.knock(22, Lab.SERVER);
        for (var line : lab.mustOn("server", "ss", "-Hlntup").lines().toList()) {
            assertTrue(line.contains("((\"nc\""), line);
        }
        long pid = lab.daemon().pid();
        try (var fds = Files.newDirectoryStream(Path.of("/proc/" + pid + "/fd"))) {
            for (var fd : fds) {
                assertFalse(Files.readSymbolicLink(fd).toString().startsWith("socket:"),
                        fd.toString());
            }
        }
        assertFalse(Files.readString(Path.of("/proc/" + pid + "/maps")).contains("libpcap"));

        Lab.await("the packet", () -> capture.text()
                .contains("> " + Lab.SERVER + ".666: Flags [S]"));
        capture.end();
        var packets = capture.text().lines()
                .filter(line -> line.contains("Flags") || line.contains("UDP")
                || line.contains("ICMP")).toList();
        assertEquals(1, packets.size(), packets.toString());
        assertTrue(packets.getFirst().contains("(correct)"), packets.getFirst());
        assertTrue(capture.text().contains("1 packet captured"), capture.text());
    }

    @Test
    void aReplayIsRefused() throws Exception {
        startServer();
        lab.knock(22, Lab.SERVER);
        assertTrue(lab.connects(Lab.SERVER, 22));
        var line = Files.readAllLines(lab.kernLog).stream().filter(l -> l.contains("knockknock: "))
                .reduce((_, last) -> last).orElseThrow();

        append(line);
        append(line.replace("SRC=" + Lab.CLIENT, "SRC=198.51.100.7"));
        Lab.await("the other address to be refused",
                () -> lab.said("from 198.51.100.7 refused") == 1);
        assertEquals(0, lab.said("from " + Lab.CLIENT + " refused"),
                "a second copy of the line is passed over in silence");
        assertEquals(1, lab.said("opened"));

        lab.stopDaemon();
        lab.startDaemon("--log", lab.kernLog.toString());
        append(line);
        Lab.await("the replay to be refused",
                () -> lab.said("from " + Lab.CLIENT + " refused") == 1);
        assertEquals(0, lab.said("opened"));
        assertFalse(lab.connects(Lab.SERVER, 22));
    }

    private void append(String line) throws IOException {
        Files.writeString(lab.kernLog, line + "\n", StandardOpenOption.APPEND);
    }

    private void assertTwoGetInAndNoMore() throws Exception {
        assertEquals(2, lab.said("opened port 22"));
        assertTrue(lab.getsIn(Lab.SERVER, 22));
        assertTrue(lab.getsIn(Lab.SERVER, 22));
        assertFalse(lab.connects(Lab.SERVER, 22));
    }

    @Test
    void twoKnocksFromOneAddressLetTwoConnectionsIn() throws Exception {
        startServer();
        lab.knock(22, Lab.SERVER);
        lab.knock(22, Lab.SERVER);
        assertTwoGetInAndNoMore();
    }

    @Test
    void twoClientsBehindOneAddressGetInWithTheirOwnProfiles() throws Exception {
        lab.profile("phone", 777, "phone");
        lab.must("sh", "-c", "echo '" + Lab.SERVER + " phone' >> /etc/hosts");
        startServer();
        lab.knock(22, Lab.SERVER);
        lab.knock(22, "phone");
        assertTwoGetInAndNoMore();
    }

    @Test
    void aPortOfUdpLetsOneFlowIn() throws Exception {
        lab.must("rm", "-r", lab.dir + "/profiles/laptop",
                lab.clientProfile(Lab.SERVER).toString());
        lab.must(lab.script("knockknock-genprofile", "--dir", lab.dir.toString(), "--open",
                "22, 53/udp", "laptop", "666"));
        lab.must("cp", "-a", lab.dir + "/profiles/laptop",
                lab.clientProfile(Lab.SERVER).toString());
        lab.start(lab.work.resolve("udp"), Lab.on("server", "nc", "-luk", "-p", "53"));
        Lab.await("the service", () -> lab.mustOn("server", "ss", "-Hlun", "sport = :53").lines()
                .count() == 1);
        startServer();
        assertTrue(lab.must("ps", "axww").contains("KnockknockFirewall 3 22,53/udp 666"));
        lab.knock(53, Lab.SERVER);
        assertEquals(1, lab.said("opened port 53/udp for " + Lab.CLIENT + ", profile laptop"),
                lab.said());
        for (var text : List.of("in", "out")) {
            lab.mustOn("client", "sh", "-c", "echo " + text + " | nc -u -w 1 " + Lab.SERVER
                    + " 53");
        }
        assertEquals("in\n", Files.readString(lab.work.resolve("udp")));
    }

    @Test
    void aProfileCanLetSeveralConnectionsInWithOneKnock() throws Exception {
        lab.addSetting(lab.dir.resolve("profiles/laptop"), "connections = 3");
        startServer();
        lab.knock(22, Lab.SERVER);
        assertEquals(1, lab.said("opened port 22 for"), lab.said());
        for (int i = 0; i < 3; i++) {
            assertTrue(lab.getsIn(Lab.SERVER, 22), "connection " + i);
        }
        assertFalse(lab.connects(Lab.SERVER, 22));
    }

    @Test
    void aKnockThatOpensForSomeOfItsConnectionsOnlySaysForHowMany() throws Exception {
        lab.addSetting(lab.dir.resolve("profiles/laptop"), "connections = 30");
        startServer();
        lab.knock(22, Lab.SERVER);
        lab.knock(22, Lab.SERVER);
        assertEquals(1, lab.said("opened, but only for 20 of 30 connections, port 22 for "
                + Lab.CLIENT), lab.said());
    }

    @Test
    void aProfileWithoutOpenPortsOpensNoPortOfUdp() throws Exception {
        lab.profile("phone", 777, "phone");
        lab.addSetting(lab.dir.resolve("profiles/phone"), "open_ports = 53/udp");
        startServer();
        lab.knock(53, Lab.SERVER);
        assertEquals(1, lab.said("refused, as only open_ports can name UDP's: port 53/udp for "
                + Lab.CLIENT), lab.said());
        lab.knock(22, Lab.SERVER);
        assertEquals(1, lab.said("opened port 22 for"), lab.said());
    }

    @Test
    void openPortsLimitsWhatAProfileMayOpen() throws Exception {
        lab.addSetting(lab.dir.resolve("profiles/laptop"), "open_ports = 443");
        startServer();
        lab.knock(22, Lab.SERVER);
        assertEquals(1, lab.said("port not in open_ports"), lab.said());
        assertFalse(lab.connects(Lab.SERVER, 22));
        assertTrue(lab.must("ps", "axww").contains("KnockknockFirewall 3 443 666"),
                "the firewall half knows the union");
        lab.knock(443, Lab.SERVER);
        assertEquals(1, lab.said("opened port 443"));
    }

    /**
     * A copy of a script's class path that another user than root can read, wherever JBang keeps
     * its own.
     */
    @Test
    void anOrdinaryUserGetsOneCapabilityThroughSudoAndStaysHerself() throws Exception {
        startServer();
        var command = lab.asAlice(lab.readable(lab.script("knockknock", "-p", "22", Lab.SERVER)));
        var refused = lab.run(command);
        assertEquals(1, refused.exit());
        assertTrue(refused.err().startsWith("knockknock: opening a raw socket needs "
                + "CAP_NET_RAW: asking sudo\n"), refused.err());

        Lab.sudoFor("(root) ALL");
        var allowed = lab.run(command);
        assertEquals("", allowed.out());
        assertEquals(0, allowed.exit(), allowed.err());
        Lab.await("the knock", () -> lab.said("opened port 22") == 1);
        assertEquals("alice", lab.must("stat", "-c", "%U",
                lab.clientProfile(Lab.SERVER).resolve("counter").toString()).strip());

        // With the capability it asks nobody.
        Files.delete(Lab.SUDOERS);
        var capable = new ArrayList<>(command);
        capable.addAll(command.indexOf("setpriv") + 1,
                List.of("--inh-caps=-all,+net_raw", "--ambient-caps=-all,+net_raw"));
        assertEquals(new Lab.Result(0, "", ""), lab.run(capable));
        Lab.await("the next knock", () -> lab.said("opened port 22") == 2);

        // What only alice's own rights must not reach, nothing reaches for her: a counter that
        // belongs to root.
        Lab.sudoFor("(root) ALL");
        lab.must("chown", "root", lab.clientProfile(Lab.SERVER).resolve("counter").toString());
        var notHers = lab.run(command);
        assertEquals(1, notHers.exit());
        assertTrue(notHers.err().contains("cannot open"), notHers.err());

        // A profile is root's to make.
        var genprofile = lab.readable(lab.script("knockknock-genprofile", "--dir",
                lab.dir.toString(), "tablet", "888"));
        assertEquals(new Lab.Result(1, "", "knockknock: cannot write to " + lab.dir
                + ": start this with sudo\n"), lab.run(lab.asAlice(genprofile)));
        genprofile.addFirst("sudo");
        lab.must(lab.asAlice(genprofile));
        assertEquals("root", lab.must("stat", "-c", "%U",
                lab.dir.resolve("profiles/tablet/mac.key").toString()).strip());
    }

    @Test
    void aProfileComesToAClientAsGenprofileSaysWhereRootMayNotLogIn() throws Exception {
        var made = lab.must(lab.script("knockknock-genprofile", "--dir", lab.dir.toString(),
                "phone", "888"));
        var commands = made.lines().filter(line -> line.startsWith("  ")).map(String::strip)
                .toList();
        assertEquals(3, commands.size(), made);
        assertTrue(Files.readString(Path.of("README.md"))
                .contains(commands.get(0).replace(lab.dir.toString(), "/etc/knockknock.d")
                .replace("phone", "laptop")) && Files.readString(Path.of("README.md"))
                        .contains(commands.get(2).replace("phone", "laptop")));
        var home = Files.createDirectory(lab.work.resolve("alice"));
        lab.must("useradd", "--no-create-home", "--home-dir", home.toString(), "--password", "*",
                "alice");
        lab.must("chown", "alice", home.toString());
        Lab.sudoFor("(ALL) ALL");
        lab.must(Lab.on("server", "setpriv", "--reuid=alice", "--regid=alice", "--init-groups",
                "env", "HOME=" + home, "USER=alice",
                "sh", "-euc", commands.get(0)));

        var key = Sshd.start(lab, Lab.on("server"), Lab.SERVER, 22);
        lab.must("chmod", "755", key.getParent().toString()); // sshd reads the public key as alice
        lab.mustOn("server", "iptables", "-I", "INPUT", "-p", "tcp", "--dport", "22", "-j",
                "ACCEPT");
        var config = Files.writeString(lab.work.resolve("ssh-config"), "User alice\nIdentityFile "
                + key
                + "\nBatchMode yes\nStrictHostKeyChecking no\nUserKnownHostsFile "
                        + "/dev/null\nLogLevel ERROR\n");
        var bin = Files.createDirectory(lab.work.resolve("bin"));
        // as if the lines of config stood in ~/.ssh/config
        for (var program : List.of("ssh", "scp")) {
            Files.writeString(bin.resolve(program), "#!/bin/sh\nexec /usr/bin/" + program + " -F "
                    + config + " \"$@\"\n");
            lab.must("chmod", "755", bin.resolve(program).toString());
        }
        var client = Files.createDirectory(lab.work.resolve("laptop"));
        for (var command : commands.subList(1, 3)) {
            lab.mustOn("client", "env", "HOME=" + client, "PATH=" + bin + ":/usr/bin:/bin", "sh",
                    "-euc",
                    command.replace("HOST", Lab.SERVER));
        }
        var profile = client.resolve(".knockknock").resolve(Lab.SERVER);
        lab.must("diff", "-r", lab.dir.resolve("profiles/phone").toString(), profile.toString());
        assertEquals("700 600 600 600 600\n",
                lab.must("sh", "-c", "cd " + profile + " && echo $(stat -c %a . *)"));
        assertFalse(Files.exists(home.resolve("phone")));
    }

    @Test
    void everyScriptRunsFromACheckoutAndByAliasOverHttp() throws Exception {
        var jbang = System.getenv("KNOCK_JBANG");
        // under a name that is new each time, as JBang keeps what it has fetched
        var www = Files.createDirectory(lab.work.resolve("www"));
        Files.createSymbolicLink(www.resolve(lab.work.getFileName()), Path.of("").toAbsolutePath());
        var address = "http://127.0.0.1:8642/" + lab.work.getFileName() + "/";
        lab.start(lab.work.resolve("http.out"),
                List.of("python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory",
                www.toString(), "8642"));
        Lab.await("the http server", () ->
                lab.run(List.of("curl", "-sf", address + "jbang-catalog.json")).exit() == 0);
        lab.must(jbang, "trust", "add", "http://127.0.0.1:8642/");
        lab.must(jbang, "catalog", "add", "-g", "--force", "--name", "org", address
                + "jbang-catalog.json");
        for (var script : List.of("knockknock", "knockknock-check", "knockknock-daemon",
                "knockknock-genprofile", "knockknock-proxy")) {
            for (var command : List.of(List.of(jbang, script + "@org", "--help"),
                    List.of(jbang, script + ".java", "--help"),
                    List.of("env", "PATH=" + Path.of(jbang).getParent() + ":"
                            + System.getenv("PATH"), "./" + script + ".java", "--help"))) {
                var help = lab.must(command);
                assertTrue(help.startsWith("Usage: " + script + " "), help);
                assertTrue(help.contains("Exit codes:"), help);
            }
        }
        startServer();
        lab.must(jbang, "build", "knockknock@org");
        lab.must("ip", "netns", "exec", "client", "setpriv", "--bounding-set=-all,+net_raw", jbang,
                "--offline", "-Duser.home=" + lab.home, "knockknock@org", "-p", "22", Lab.SERVER);
        Lab.await("the knock", () -> lab.said("opened port 22") == 1);
        assertTrue(lab.connects(Lab.SERVER, 22));
    }
}
