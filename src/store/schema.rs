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
        max_concurrency_given -> Bool,
    }
}

diesel::table! {
    keys (id) {
        id -> Text,
        name -> Text,
        prefix -> Text,
        source -> Text,
        hash -> Text,
        old_hash -> Nullable<Text>,
        old_until -> Nullable<BigInt>,
        scopes -> Text,
        models -> Text,
        expires_at -> Nullable<BigInt>,
        enabled -> Bool,
        requests_per_minute -> Nullable<BigInt>,
        tokens_per_minute -> Nullable<BigInt>,
        tokens_per_day -> Nullable<BigInt>,
        max_concurrency -> Nullable<BigInt>,
        max_waiting -> Nullable<BigInt>,
        trusts_client_header -> Bool,
        created_at -> BigInt,
        last_used_at -> Nullable<BigInt>,
    }
}

diesel::table! {
    key_daily_stats (key_id, model_id, date, api_kind) {
        key_id -> Text,
        model_id -> Text,
        date -> Text,
        api_kind -> Text,
        total_requests -> BigInt,
        successful_requests -> BigInt,
        failed_requests -> BigInt,
        refused_requests -> BigInt,
        input_tokens -> BigInt,
        output_tokens -> BigInt,
    }
}

diesel::table! {
    secrets (name) {
        name -> Text,
        value -> Text,
    }
}

diesel::table! {
    request_history (id) {
        id -> BigInt,
        request_id -> Text,
        attempt -> Integer,
        created_at -> BigInt,
        api_kind -> Text,
        model_id -> Text,
        endpoint_id -> Nullable<Text>,
        client -> Text,
        status -> Text,
        is_final -> Bool,
        duration_ms -> Nullable<BigInt>,
        first_token_ms -> Nullable<BigInt>,
        wait_ms -> BigInt,
        input_tokens -> Nullable<BigInt>,
        output_tokens -> Nullable<BigInt>,
        error -> Nullable<Text>,
    }
}

diesel::table! {
    endpoint_daily_stats (endpoint_id, model_id, date, api_kind) {
        endpoint_id -> Text,
        model_id -> Text,
        date -> Text,
        api_kind -> Text,
        total_requests -> BigInt,
        successful_requests -> BigInt,
        failed_requests -> BigInt,
        total_output_tokens -> BigInt,
        total_duration_ms -> BigInt,
        measured_requests -> BigInt,
    }
}

diesel::table! {
    refused (minute, code) {
        minute -> BigInt,
        code -> Text,
        requests -> BigInt,
    }
}

diesel::table! {
    request_daily_stats (date) {
        date -> Text,
        total_requests -> BigInt,
        successful_requests -> BigInt,
        failed_requests -> BigInt,
    }
}
