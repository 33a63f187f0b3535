diesel::table! {
    endpoints (id) {
        id -> Text,
        name -> Text,
        base_url -> Text,
        kind -> Nullable<Text>,
        source -> Text,
        max_concurrency -> Integer,
        capability_score -> Nullable<Integer>,
        api_key -> Nullable<Text>,
        allowed_models -> Text,
        registered_at -> BigInt,
        detected_kind -> Nullable<Text>,
        models -> Text,
        latency_ms -> Nullable<Double>,
        last_seen -> Nullable<BigInt>,
        total_requests -> BigInt,
        successful_requests -> BigInt,
        failed_requests -> BigInt,
    }
}
