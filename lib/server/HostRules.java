import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/**
 * A host's own rules, as nft and iptables-save write them, and the way of a packet through those
 * for input: a TCP SYN from outside. It does not guess: a rule with conditions that it does not
 * know is one that the packet perhaps meets.
 */
final class HostRules {
    private static final int LOG_RULE = -350; // the priority of the daemon's own chain
    private static final Map<String, Integer> PRIORITIES = Map.of("raw", -300, "mangle", -150,
            "dstnat", -100, "filter", 0, "security", 50, "srcnat", 100); // nft(8)

    /** What is no condition: counters, log statements, comments. */
    private static final Pattern NO_CONDITION = Pattern.compile("counter packets \\d+ bytes \\d+"
            + "|log( prefix \"[^\"]*\")?( level \\w+)?( flags [\\w, ]+)?|comment \"[^\"]*\""
            + "|-m comment --comment (\"[^\"]*\"|\\S+)|-m (tcp|conntrack|state) (?=--)");
    /** Conditions of another kind of packet: on loopback, or not TCP. */
    private static final Pattern NOT_MET = Pattern.compile("(iif|iifname) \"?lo\\b|-i lo\\b"
            + "|(icmp|icmpv6|udp) [a-z]|-p (icmp|ipv6-icmp|icmpv6|udp)\\b"
            + "|(l4proto|protocol|nexthdr) (icmp|ipv6-icmp|udp)\\b");
    private static final Pattern STATE = Pattern.compile(
            "(?:ct state|(?<!! )--(?:ct)?state) (?:\\{ )?([a-zA-Z]+(?:, ?[a-zA-Z]+)*)(?: })?");
    private static final Pattern STATE_MAP = Pattern.compile("ct state vmap \\{ (.*?) }");
    private static final Pattern ANY_MAP = Pattern.compile("vmap (?:\\{ (.*?) }|@\\S+)");
    private static final Pattern VERDICT = Pattern.compile("(?:^| )(?:(accept|drop|return|queue)"
            + "|(reject)(?: with .*)?|(?:jump|goto) (\\S+)|-[jg] (\\S+).*)$");

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

    private final Map<String, Chain> chains = new LinkedHashMap<>(); // by table and name

    /** The rules for IP version 4 or 6, from both programs' output; either may be empty. */
    static HostRules read(String nft, String save, int version) {
        var rules = new HostRules();
        var families = version == 4 ? "ip|inet|netdev" : "ip6|inet|netdev";
        // What iptables-nft keeps in nft's tables is read from iptables-save.
        var others = save.contains("(nf_tables)")
                ? "(?!ip6? (filter|mangle|nat|raw|security) )" : "";
        Pattern.compile("(?ms)^table " + others + "((?:" + families + ") (?!knockknock )\\S+) \\{"
                + "(.*?)^}").matcher(nft).results().forEach(table ->
                rules.readTable(table.group(1), table.group(2)));
        Pattern.compile("(?ms)^\\*(\\w+)$(.*?)^COMMIT").matcher(save).results().forEach(table ->
                rules.readSaved("iptables " + table.group(1), table.group(2)));
        return rules;
    }

    private void readTable(String table, String text) {
        Pattern.compile("(?ms)^\\tchain (\\S+) \\{\\n(.*?)^\\t}").matcher(text).results()
                .forEach(found -> {
                    var lines = new ArrayList<>(found.group(2).lines().map(String::strip).toList());
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
                .forEach(rule -> chains.get(table + " " + rule[1]).rules.add(rule[2]));
    }

    private void add(Chain chain) {
        chains.put(chain.table + " " + chain.name, chain);
    }

    /** The ways of a packet through the base chains for input, in the given connection state. */
    List<Way> input(String state) {
        return chains.values().stream().filter(chain -> chain.hook.equals("input")).map(chain -> {
            var perhaps = new ArrayList<Met>();
            var policy = chain.drops ? new Met(Fate.DENIED, "policy drop")
                    : new Met(Fate.ACCEPTED, "policy accept");
            var end = follow(chain, state, perhaps).orElse(policy);
            return new Way(chain.table + " " + chain.name, end, perhaps);
        }).toList();
    }

    /** How a packet's way ends in this chain, if it does. */
    private Optional<Met> follow(Chain chain, String state, List<Met> perhaps) {
        for (var line : chain.rules) {
            var rule = NO_CONDITION.matcher(line).replaceAll("").replaceAll(" +", " ").strip();
            boolean certain = true;

            // A map of states has a verdict for ours, or none; of another map any may be ours.
            var verdicts = List.of(rule);
            Matcher map = STATE_MAP.matcher(rule), anyMap = ANY_MAP.matcher(rule);
            if (map.find()) {
                verdicts = Stream.of(map.group(1).split(", "))
                        .filter(element -> element.startsWith(state + " : "))
                        .map(element -> element.substring(state.length() + 3)).toList();
                rule = map.replaceFirst("");
            } else if (anyMap.find()) {
                verdicts = anyMap.group(1) == null ? List.of("queue") // a named map: unknown
                        : Stream.of(anyMap.group(1).split(", "))
                                .map(element -> element.replaceFirst(".* : ", "")).toList();
                certain = false;
                rule = anyMap.replaceFirst("");
            }

            // What is left are conditions.
            var states = STATE.matcher(rule);
            if (states.find()) {
                if (!List.of(states.group(1).toLowerCase().split("[, ]+")).contains(state)) {
                    continue;
                }
                rule = states.replaceFirst("");
            }
            if (NOT_MET.matcher(rule).find()) {
                continue;
            }
            certain &= VERDICT.matcher(rule).replaceFirst("").isBlank();

            for (var text : verdicts) {
                var verdict = VERDICT.matcher(text);
                if (!verdict.find()) {
                    continue; // it only counts, logs, or keeps a set
                }
                var word = Stream.of(1, 2, 3, 4).map(verdict::group).filter(group -> group != null)
                        .findFirst().orElseThrow();
                var target = chains.get(chain.table + " " + word);
                if (certain && word.equalsIgnoreCase("return")) {
                    return Optional.empty();
                }
                var end = target != null ? follow(target, state, perhaps)
                        : fate(word).map(fate -> new Met(fate, line));
                if (certain && (end.isPresent() || text.matches(".*(goto|-g) \\S+"))) {
                    return end;
                }
                end.ifPresent(perhaps::add);
            }
        }
        return Optional.empty();
    }

    private static Optional<Fate> fate(String verdict) {
        return switch (verdict.toLowerCase()) {
            case "accept" -> Optional.of(Fate.ACCEPTED);
            case "drop", "reject", "tarpit" -> Optional.of(Fate.DENIED);
            case "return", "queue", "nfqueue" -> Optional.of(Fate.OTHER);
            default -> Optional.empty(); // LOG, MARK and the like: the packet goes on
        };
    }

    /** Rules that keep connections out of tracking, or in a zone of their own. */
    List<String> untracked() {
        return chains.values().stream().flatMap(chain -> chain.rules.stream())
                .filter(rule -> rule.matches(".*(\\bnotrack\\b|\\bct (original )?zone set\\b"
                        + "|-j NOTRACK|-j CT .*--(notrack|zone)).*")).toList();
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
