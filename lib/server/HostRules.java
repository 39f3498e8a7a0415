import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.regex.MatchResult;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * A host's own rules, as nft and iptables-save write them, and the way of a packet through those
 * for input: a TCP SYN from outside to an address of this host. It does not guess: the packet meets
 * a rule for certain only if nothing but the verdict is left of it when all conditions that are
 * known to be so are taken away.
 */
final class HostRules {
    private static final int LOG_RULE = -350; // the priority of the daemon's own chain
    private static final Map<String, Integer> PRIORITIES = Map.of("raw", -300, "mangle", -150,
            "dstnat", -100, "filter", 0, "security", 50, "srcnat", 100); // nft(8)

    private static final String TEXT = "\"(?:\\\\.|[^\"\\\\])*\"";
    /** What is no condition, or one that the packet meets. */
    private static final Pattern MET = words("counter(?: packets \\d+ bytes \\d+)?",
            "log(?: prefix " + TEXT + ")?(?: level \\w+)?(?: group \\d+)?(?: flags (?:all|skuid"
            + "|ether|ip options|tcp (?:sequence|options)(?:,(?:sequence|options))?))*",
            "comment " + TEXT, "-m comment --comment (?:" + TEXT + "|\\S+)",
            "-m (?:tcp|conntrack|state)", "(?:iif|iifname) != \"?lo\"?", "! -i lo", "-p tcp",
            "(?:meta l4proto|ip protocol|ip6 nexthdr) tcp", "fib daddr type local",
            "-m addrtype --dst-type LOCAL");
    /** Conditions of other packets: on loopback, not TCP, or to others. */
    private static final Pattern NOT_MET = words("(?:iif|iifname) \"?lo\"?", "(?<!! )-i lo",
            "(?<!! )-p (?:icmp|ipv6-icmp|icmpv6|udp)", "(?:icmp|icmpv6|udp) \\w+ .*",
            "(?:l4proto|protocol|nexthdr) (?:icmp|ipv6-icmp|udp)",
            "(?:fib daddr type|--dst-type) (?:multicast|MULTICAST|broadcast|BROADCAST)");
    private static final Pattern STATES = words("(?:ct state|(?<!! )--(?:ct)?state) (?:\\{ )?"
            + "([a-zA-Z]+(?:, ?[a-zA-Z]+)*)(?: })?");
    private static final Pattern MAP = words("(ct state )?(?:\\S+ )*?vmap (?:\\{ (.*?) ?}|@\\S+)");
    private static final Pattern VERDICT = Pattern.compile("(?<!\\S)(?:(accept|drop|return)"
            + "|(queue|reject)(?: .*)?|(?:jump|goto) (\\S+)|-[jg] (\\S+).*)$");
    private static final Pattern GOTO = words("(?:goto|-g) \\S+");
    private static final Pattern UNTRACKED = words("notrack", "ct (?:original )?zone set .*",
            "-j NOTRACK", "-j CT .*--(?:notrack|zone).*");

    /** What a rule does with a packet; OTHER is what cannot be told. */
    enum Fate { ACCEPTED, DENIED, OTHER }

    /** A rule that a packet meets, and what it does with it. */
    record Met(Fate fate, String rule) {}

    /** A packet's way through a base chain: how it ends, and which rules may end it before. */
    record Way(String chain, Met end, List<Met> perhaps) {
        /** The first rule that may make another end of it. */
        Optional<Met> doubt() {
            return perhaps.stream().filter(met -> met.fate != end.fate).findFirst();
        }
    }

    private record Chain(String table, String name, String hook, int priority, boolean drops,
            List<String> rules) {}

    /** What a rule is for our packet: its verdicts, of which each may be the one, or none. */
    private record Step(boolean certain, List<String> verdicts) {}

    private final Map<String, Chain> chains = new LinkedHashMap<>(); // by table and name

    private static Pattern words(String... alternatives) {
        return Pattern.compile("(?<!\\S)(?:" + String.join("|", alternatives) + ")(?!\\S)");
    }

    /**
     * The rules for IP version 4 or 6, from what nft, iptables-save and iptables-legacy-save say,
     * each of which may be empty.
     */
    static HostRules read(int version, String nft, String saved, String legacy) {
        var rules = new HostRules();
        // What iptables-nft keeps in nft's tables is read from iptables-save, if that can tell it.
        var strange = Pattern.compile("# Table [`'](\\w+)' \\w+ incompatible").matcher(saved)
                .results().map(found -> found.group(1)).collect(Collectors.toSet());
        boolean shared = saved.contains("(nf_tables)");
        var families = version == 4 ? "ip|inet|netdev" : "ip6|inet|netdev";
        Pattern.compile("(?ms)^table (" + families + ") (\\S+) \\{.*?\n(.*?)^}").matcher(nft)
                .results().filter(table -> !table.group(2).equals("knockknock")
                        && !table.group(3).matches("(?s).*\n?\tflags [^\n]*dormant.*")
                        && !(shared && table.group(1).startsWith("ip")
                        && !strange.contains(table.group(2))
                        && table.group(2).matches("filter|mangle|nat|raw|security")))
                .forEach(table -> rules.readTable(table.group(1) + " " + table.group(2),
                        table.group(3)));
        var tables = Pattern.compile("(?ms)^\\*(\\w+)$(.*?)^COMMIT");
        tables.matcher(saved).results().filter(table -> !strange.contains(table.group(1)))
                .forEach(table -> rules.readSaved("iptables " + table.group(1), table.group(2)));
        tables.matcher(legacy).results().forEach(table ->
                rules.readSaved("iptables-legacy " + table.group(1), table.group(2)));
        return rules;
    }

    private void readTable(String table, String text) {
        Pattern.compile("(?ms)^\\tchain (\\S+) \\{.*?\n(.*?)^\\t}").matcher(text).results()
                .forEach(found -> {
                    // A chain without a name, in braces behind jump or goto, is not looked into.
                    var named = found.group(2)
                            .replaceAll("(?s)(jump|goto) \\{\n.*?\n\\s+}", "$1 { ... } queue");
                    var lines = new ArrayList<>(named.lines()
                            .map(String::strip).filter(line -> !line.startsWith("comment "))
                            .toList());
                    var base = Pattern.compile("type \\w+ hook (\\w+) .*?priority ([^;]+);(.*)")
                            .matcher(lines.isEmpty() ? "" : lines.getFirst());
                    boolean isBase = base.lookingAt();
                    if (isBase) {
                        lines.removeFirst();
                    }
                    add(new Chain(table, found.group(1), isBase ? base.group(1) : "",
                            isBase ? priority(base.group(2)) : 0,
                            isBase && base.group(3).contains("policy drop"), lines));
                });
    }

    private static int priority(String text) { // such as -300, raw, or raw - 60
        var words = text.strip().split(" ");
        int first = PRIORITIES.containsKey(words[0]) ? PRIORITIES.get(words[0])
                : Integer.parseInt(words[0]);
        return words.length < 3 ? first : first + Integer.parseInt(words[1] + words[2]);
    }

    private void readSaved(String table, String text) {
        text.lines().filter(line -> line.startsWith(":")).map(line -> line.substring(1).split(" "))
                .forEach(chain -> add(new Chain(table, chain[0], chain[1].equals("-") ? ""
                        : chain[0].toLowerCase(), 0, chain[1].equals("DROP"), new ArrayList<>())));
        text.lines().filter(line -> line.startsWith("-A ")).map(line -> line.split(" ", 3))
                .forEach(rule -> chains.get(table + " " + rule[1]).rules
                        .add(rule.length < 3 ? "" : rule[2]));
    }

    private void add(Chain chain) {
        chains.put(chain.table + " " + chain.name, chain);
    }

    /** The ways of a packet through the base chains for input, in the given connection state. */
    List<Way> input(String state) {
        return chains.values().stream().filter(chain -> chain.hook.equals("input")).map(chain -> {
            var policy = chain.drops ? new Met(Fate.DENIED, "policy drop")
                    : new Met(Fate.ACCEPTED, "policy accept");
            var perhaps = new ArrayList<Met>();
            var end = follow(chain, state, perhaps).orElse(policy);
            return new Way(chain.table + " " + chain.name, end, perhaps);
        }).toList();
    }

    /** How a packet's way ends in this chain, if it does for certain. */
    private Optional<Met> follow(Chain chain, String state, List<Met> perhaps) {
        boolean gotHere = true; // false behind a rule that perhaps returns
        for (var rule : chain.rules) {
            var step = read(rule, state);
            for (var verdict : step.verdicts) {
                boolean certain = gotHere && step.certain;
                var word = word(verdict);
                if (word.equalsIgnoreCase("return")) {
                    if (certain) {
                        return Optional.empty();
                    }
                    gotHere = false;
                    continue;
                }
                var target = chains.get(chain.table + " " + word);
                var end = target == null ? fate(word).map(fate -> new Met(fate, rule))
                        : follow(target, state, perhaps);
                boolean forGood = target != null && GOTO.matcher(verdict).find();
                if (certain && (end.isPresent() || forGood)) {
                    return end;
                }
                end.ifPresent(perhaps::add);
            }
        }
        return Optional.empty();
    }

    /** Takes from a rule what the packet meets; what is left decides. */
    private static Step read(String rule, String state) {
        var left = MET.matcher(rule).replaceAll("").replaceAll(" +", " ").strip();
        var verdict = VERDICT.matcher(left);
        var verdicts = verdict.find() ? List.of(verdict.group()) : List.<String>of();
        left = verdicts.isEmpty() ? left : left.substring(0, verdict.start()).strip();

        // A map of states has one verdict for ours, or none; of another map any may be ours.
        boolean certain = true;
        var map = MAP.matcher(left);
        if (map.find()) {
            boolean ofStates = map.group(1) != null && map.group(2) != null
                    && !map.group(2).isBlank();
            certain = ofStates;
            verdicts = map.group(2) == null || map.group(2).isBlank() ? List.of("queue")
                    : Stream.of(map.group(2).split(", "))
                            .filter(element -> !ofStates || element.startsWith(state + " : "))
                            .map(element -> element.replaceFirst(".* : ", "")).toList();
            left = map.replaceFirst("").strip();
        }

        var states = STATES.matcher(left);
        if (states.find()) {
            if (!List.of(states.group(1).toLowerCase().split("[, ]+")).contains(state)) {
                return new Step(true, List.of());
            }
            left = states.replaceFirst("").strip();
        }
        return NOT_MET.matcher(left).find() ? new Step(true, List.of())
                : new Step(certain && left.isEmpty(), verdicts);
    }

    private static String word(String verdict) {
        var found = VERDICT.matcher(verdict);
        return !found.find() ? "" : Stream.of(1, 2, 3, 4).map(((MatchResult) found)::group)
                .filter(group -> group != null).findFirst().orElseThrow();
    }

    private static Optional<Fate> fate(String verdict) {
        return switch (verdict.toLowerCase()) {
            case "accept" -> Optional.of(Fate.ACCEPTED);
            case "drop", "reject", "tarpit" -> Optional.of(Fate.DENIED);
            case "queue", "nfqueue" -> Optional.of(Fate.OTHER);
            default -> Optional.empty(); // LOG, MARK and the like: the packet goes on
        };
    }

    /** Rules that keep connections out of tracking, or in a zone of their own. */
    List<String> untracked() {
        return chains.values().stream().flatMap(chain -> chain.rules.stream())
                .filter(rule -> UNTRACKED.matcher(rule).find()).toList();
    }

    /** Rules that drop packets before the log rule sees them. */
    List<String> beforeLogRule() {
        return chains.values().stream().filter(chain -> chain.hook.equals("ingress")
                        || chain.hook.equals("prerouting") && chain.priority < LOG_RULE)
                .flatMap(chain -> Stream.concat(chain.rules.stream(), Stream.of("policy drop")
                        .filter(_ -> chain.drops)))
                .filter(rule -> rule.matches(".*\\b(drop|reject|queue)\\b.*")).toList();
    }
}
