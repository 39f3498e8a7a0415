import java.io.IOException;

/** What a client knocks with: a profile, its keys, and its counter, which stays open. */
record Credentials(Profile profile, KnockCodec codec, Counter counter) {
    static Credentials load(Profile profile) throws IOException {
        var codec = new KnockCodec(profile.key("cipher.key"), profile.key("mac.key"));
        return new Credentials(profile, codec, profile.openCounter());
    }
}
